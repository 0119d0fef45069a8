"""llmft preprocess, end to end: the same bytes on any number of ranks, after a kill, and from any format; one clear
error for each kind of bad input."""

import ctypes
import gzip
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import runs

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("LLMFT_BINARY", str(ROOT / "llmft"))
SAMPLE = ROOT / "inputs/tiny/sample.parquet"
TOKENIZER = ROOT / "inputs/tiny/model"
ENV = runs.ENV


def command(*args, ranks=1):
    launcher = [] if ranks == 1 else ["mpirun", "--oversubscribe", "-n", str(ranks)]
    return [*launcher, BINARY, "preprocess", *map(str, args)]


def run(*args, ranks=1, timeout=120, **kwargs):
    return subprocess.run(command(*args, ranks=ranks), env=ENV, capture_output=True, text=True, timeout=timeout, **kwargs)


def preprocess(source, output, *args, ranks=1):
    done = run("--input", source, "--tokenizer", TOKENIZER, "--output", output, *args, ranks=ranks)
    assert done.returncode == 0, done.stderr
    return json.loads((output / "manifest.json").read_text())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_rows(path, count, seed=1, words=30):
    """count different rows as JSON lines."""
    rng = random.Random(seed)
    with open(path, "w") as out:
        for i in range(count):
            text = " ".join(rng.choices(["owl", "river", "naïve", "42", "of", "the", "日本"], k=words))
            out.write(json.dumps({"id": f"cot.{i}", "system_prompt": "Be brief." if i % 2 else "",
                                  "question": f"{i}: {text}?", "response": text}) + "\n")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    output = tmp_path_factory.mktemp("reference") / "out"
    manifest = preprocess(SAMPLE, output, "--rows-per-shard", 100, "--validation", 0.1)
    return manifest, contents(output), output


@pytest.mark.parametrize("ranks", [2, 4])
def test_bytes_do_not_depend_on_the_number_of_ranks(reference, tmp_path, ranks):
    preprocess(SAMPLE, tmp_path / "out", "--rows-per-shard", 100, "--validation", 0.1, ranks=ranks)
    assert contents(tmp_path / "out") == reference[1]


def test_manifest_adds_up(reference):
    manifest, _, output = reference
    valid = json.loads((output / "valid/manifest.json").read_text())
    rows = pq.read_table(SAMPLE)
    assert manifest["rows"] == rows.num_rows == manifest["kept"] + valid["kept"] + sum(manifest["drops"].values())
    assert manifest["other_split"] == valid["kept"] and valid["other_split"] == manifest["kept"]
    assert manifest["drops"] == valid["drops"]
    assert [source["name"] for source in manifest["sources"]] == ["sample.parquet"]
    for m in (manifest, valid):
        repeated = m["duplicates"]["rows"] if m["duplicates"] else 0
        assert sum(shard["rows"] for shard in m["shards"]) == m["kept"] + repeated
        for key in ("tokens", "loss_tokens"):
            assert (sum(shard[key] for shard in m["shards"]) - m[key] > 0) == (repeated > 0)
    assert manifest["duplicates"]["rows"] > 0 and manifest["drops"]["duplicate"] > manifest["duplicates"]["rows"]
    assert list(manifest) == sorted(manifest)
    assert (manifest["split"], valid["split"]) == ("train", "validation")


def test_h5py_reads_the_shards(reference):
    manifest, _, output = reference
    eot, bos = manifest["tokenizer"]["eot"], manifest["tokenizer"]["bos"]
    lengths, rows, supervised, samples = [], [], 0, []
    with h5py.File(output / manifest["duplicates"]["file"]) as file:
        assert file["row"].fletcher32
        repeated = file["row"][:]
    for shard in manifest["shards"]:
        with h5py.File(output / shard["file"]) as file:
            assert {name: str(file[name].dtype) for name in file} == {
                "tokens": "uint32", "offsets": "uint64", "loss_start": "uint32", "row": "uint64", "hash": "uint64"}
            assert all(file[name].fletcher32 and file[name].chunks and file[name].compression is None for name in file)
            assert file.attrs["format"] == b"llmft-shard"
            assert file.attrs["format_version"] == 2
            assert file.attrs["tokenizer_hash"].decode() == manifest["tokenizer"]["hash"]
            tokens, offsets, start = file["tokens"][:], file["offsets"][:], file["loss_start"][:]
            row, hashes = file["row"][:], file["hash"][:]
        assert len(tokens) == shard["tokens"] == offsets[-1]
        assert len(start) == shard["rows"] == len(offsets) - 1
        length = np.diff(offsets)
        assert len(set(hashes)) == len(hashes) == len(row)
        kept = ~np.isin(row, repeated)
        rows.extend(row[kept])
        samples.extend(hashes[kept])
        lengths.extend(length[kept])
        supervised += (length - start)[kept].sum()
        assert (start >= 1).all() and (start < length).all()
        assert (length - start).sum() == shard["loss_tokens"]
        assert (tokens[offsets[1:] - 1] == eot).all()
        assert (tokens[offsets[:-1]] == bos).all() and (tokens == bos).sum() == len(start)
        assert tokens.max() < manifest["tokenizer"]["vocabulary_size"]
    assert rows == sorted(set(rows)) and len(rows) == manifest["kept"]
    assert len(set(samples)) == len(samples)
    assert (sum(lengths), supervised) == (manifest["tokens"], manifest["loss_tokens"])
    lengths.sort()
    for percent in (50, 90, 95, 99):  # nearest rank
        assert manifest["lengths"][f"p{percent}"] == lengths[-(-len(lengths) * percent // 100) - 1]
    assert (manifest["lengths"]["min"], manifest["lengths"]["max"]) == (lengths[0], lengths[-1])


def test_formats_encodings_and_codecs_give_the_same_samples(tmp_path):
    table = pq.read_table(SAMPLE).slice(0, 500)
    lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    inputs = {}

    def parquet(name, data=table, **options):
        inputs[name] = tmp_path / f"{name}.parquet"
        pq.write_table(data, inputs[name], **options)

    for codec in ("none", "snappy", "gzip", "zstd", "lz4", "brotli"):
        parquet(codec, compression=codec, row_group_size=180)
    parquet("plain", use_dictionary=False, data_page_size=100, write_batch_size=10)
    parquet("delta", use_dictionary=False, column_encoding={c: "DELTA_BYTE_ARRAY" for c in table.column_names})
    parquet("v2pages", data_page_version="2.0", data_page_size=1000, write_batch_size=10, write_page_checksum=True)
    parquet("large", table.cast(pa.schema([(c, pa.large_string()) for c in table.column_names])))
    parquet("dictionary", pa.table({c: table[c].dictionary_encode() for c in reversed(table.column_names)}))
    parquet("required", table.cast(pa.schema([pa.field(c, pa.string(), nullable=False) for c in table.column_names])))
    inputs["jsonl"] = tmp_path / "a.jsonl"
    inputs["jsonl"].write_bytes(lines)
    inputs["gzip lines"] = tmp_path / "a.jsonl.gz"
    inputs["gzip lines"].write_bytes(gzip.compress(lines[:5000]) + gzip.compress(lines[5000:]))
    inputs["zstd lines"] = tmp_path / "a.jsonl.zst"
    inputs["zstd lines"].write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    inputs["folder"] = tmp_path / "folder"
    inputs["folder"].mkdir()
    pq.write_table(table.slice(0, 300), inputs["folder"] / "a.parquet")
    (inputs["folder"] / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.slice(300).to_pylist()))
    inputs["pattern"] = str(inputs["folder"]) + "/[ab].*"

    def samples(source, name):
        preprocess(source, tmp_path / "out" / name, "--rows-per-shard", 250)
        arrays = []
        for path in sorted((tmp_path / "out" / name).glob("*.h5")):
            with h5py.File(path) as file:
                arrays.append({key: file[key][:].tolist() for key in file})
        return arrays

    expected = samples(inputs.pop("none"), "none")
    assert len(expected) == 2
    for name, source in inputs.items():
        assert samples(source, name) == expected, name


def start_and_wait_for_shards(args, output, ranks):
    """The running command and its ranks' process ids, some shards into the work."""
    process = subprocess.Popen(command(*args, "--output", output, ranks=ranks), env=ENV, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while len(list(output.glob("*.h5"))) < 5:
        assert process.poll() is None and time.time() < deadline, "it was over before it could be killed"
        time.sleep(0.002)
    if ranks == 1:
        return process, [process.pid]
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    pids = [int(child) for child in children if "preprocess" in pathlib.Path(f"/proc/{child}/cmdline").read_text()]
    assert len(pids) == ranks
    return process, pids


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """Arguments of a run of 100 shards, and what it writes when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("long")
    write_rows(folder / "in.jsonl", 20000)
    args = ("--input", folder / "in.jsonl", "--tokenizer", TOKENIZER, "--rows-per-shard", 200, "--validation", 0.05)
    assert run(*args, "--output", folder / "whole", ranks=4).returncode == 0
    return args, contents(folder / "whole")


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_run_again_gives_the_same_bytes(long_run, tmp_path, ranks):
    args, whole = long_run
    output = tmp_path / "out"
    process, pids = start_and_wait_for_shards(args, output, ranks)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=30) != 0
    assert not (output / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in output.glob("*.h5")
                if (output / "valid" / path.name).exists()}
    assert 0 < len(finished) < 100
    done = run(*args, "--output", output, ranks=3)
    assert done.returncode == 0, done.stderr
    assert contents(output) == whole
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in finished.items())


def test_a_rank_that_dies_ends_the_others(long_run, tmp_path):
    args, whole = long_run
    process, pids = start_and_wait_for_shards(args, tmp_path / "out", 2)
    os.kill(pids[-1], signal.SIGKILL)
    killed = time.time()
    assert process.wait(timeout=30) != 0
    assert time.time() - killed < 10
    left = contents(tmp_path / "out")
    assert "manifest.json" not in left
    assert all(whole[name] == content for name, content in left.items() if name.endswith(".h5"))


def test_changed_settings_are_refused_unless_forced(tmp_path):
    output = tmp_path / "out"
    preprocess(SAMPLE, output)
    before = contents(output)
    done = run("--input", SAMPLE, "--tokenizer", TOKENIZER, "--output", output, "--max-length", 100)
    assert done.returncode == 2
    assert "max_length was 2048, is 100" in done.stderr and "--force" in done.stderr
    assert contents(output) == before
    manifest = preprocess(SAMPLE, output, "--max-length", 100, "--force")
    assert manifest["drops"]["too_long"] > 0
    assert preprocess(SAMPLE, output, "--max-length", 100) == manifest


@pytest.mark.parametrize("name", ["a shard", "the list of duplicates"])
def test_a_second_run_notices_damage_under_the_right_size(reference, tmp_path, name):
    output = tmp_path / "out"
    shutil.copytree(reference[2], output)
    args = ("--rows-per-shard", 100, "--validation", 0.1)
    done = run("--input", SAMPLE, "--tokenizer", TOKENIZER, "--output", output, *args)
    assert "already whole" in done.stderr and "undamaged" in done.stderr
    path = output / ("valid/shard-00002-of-00024.h5" if name == "a shard" else "duplicates.h5")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = run("--input", SAMPLE, "--tokenizer", TOKENIZER, "--output", output, *args, ranks=2)
    assert done.returncode == 0 and f"{path.name}: damaged" in done.stderr
    assert contents(output) == reference[1]


DAMAGES = {
    "header": lambda out: (out / "shard-00003-of-00024.h5", lambda b: b[:100] + bytes([b[100] ^ 0xff]) + b[101:]),
    "validation header": lambda out: (out / "valid/shard-00003-of-00024.h5", lambda b: b"X" + b[1:]),
    "bytes after the end": lambda out: (out / "shard-00001-of-00024.h5", lambda b: b + b"junk"),
    "no bytes": lambda out: (out / "shard-00001-of-00024.h5", lambda b: b""),
    "a number of the manifest": lambda out: (out / "manifest.json", lambda b: b.replace(b'"kept": ', b'"kept": 1')),
    "a setting in the manifest": lambda out: (out / "valid/manifest.json", lambda b: b.replace(b'"max_length": ', b'"max_length": 1')),
}


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("name", DAMAGES)
def test_what_was_damaged_in_a_whole_folder_is_made_anew(reference, tmp_path, name, ranks):
    output = tmp_path / "out"
    shutil.copytree(reference[2], output)
    path, damage = DAMAGES[name](output)
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    done = run("--verify", output)
    assert done.returncode == 2 and path.name in done.stderr
    done = run("--input", SAMPLE, "--tokenizer", TOKENIZER, "--output", output, "--rows-per-shard", 100, "--validation", 0.1, ranks=ranks)
    assert done.returncode == 0 and f"{path.name}: damaged" in done.stderr, done.stderr
    assert contents(output) == reference[1]


def test_files_of_others_are_left_alone(reference, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "shard-of-mine.h5").write_text("precious")
    args = ("--input", SAMPLE, "--tokenizer", TOKENIZER, "--output", output)
    assert run(*args).returncode == 0
    assert (output / "shard-of-mine.h5").read_text() == "precious"
    foreign = output / "shard-00000-of-00077.h5"
    with h5py.File(foreign, "w") as file:
        file["mine"] = [1, 2, 3]
    before = foreign.read_bytes()
    done = run(*args)
    assert done.returncode == 2 and "HDF5 file of another kind" in done.stderr and "--force" in done.stderr
    assert foreign.read_bytes() == before
    with h5py.File(foreign, "w") as file:
        file.attrs["format"] = np.bytes_("llmft-shard")
        file.attrs["format_version"] = np.uint64(1)
    done = run(*args)
    assert done.returncode == 2 and "shard format version 1" in done.stderr
    assert run(*args, "--force").returncode == 0


def test_the_validation_split_is_verified_with_the_folder_above(reference):
    done = run("--verify", reference[2] / "valid")
    assert done.returncode == 2 and "verify the folder that it lies in" in done.stderr


@pytest.mark.parametrize("pattern", ["", "/*.jsonl"])
def test_a_link_to_nothing_is_no_missing_file(tmp_path, pattern):
    source = tmp_path / "in"
    source.mkdir()
    write_rows(source / "a.jsonl", 20)
    (source / "b.jsonl").symlink_to(tmp_path / "missing")
    done = run("--input", f"{source}{pattern}", "--tokenizer", TOKENIZER, "--output", tmp_path / "out")
    assert done.returncode == 2 and "b.jsonl: cannot read (No such file or directory)" in done.stderr
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_duplicates_are_found_across_shards_in_bounded_memory(reference, tmp_path):
    """As many partitions of hashes as it takes; every row of a repeated file is a duplicate of the first one's."""
    rows = pq.read_table(SAMPLE)
    source = tmp_path / "in"
    source.mkdir()
    for name in "ab":
        pq.write_table(rows, source / f"{name}.parquet")
    expected, args = reference[0], ("--rows-per-shard", 100, "--validation", 0.1)
    folders = []
    for ranks, entries in ((1, 10**6), (3, 200)):
        done = subprocess.run(command("--input", source, "--tokenizer", TOKENIZER, "--output", tmp_path / f"{ranks}", *args, ranks=ranks),
                              env=dict(ENV, LLMFT_TEST_PARTITION=str(entries)), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        folders.append(contents(tmp_path / f"{ranks}"))
    assert folders[0] == folders[1]
    manifest = json.loads(folders[0]["manifest.json"])
    for key in ("kept", "other_split", "tokens", "loss_tokens", "lengths", "truncated", "overlap"):
        assert manifest[key] == expected[key], key
    assert manifest["drops"]["duplicate"] == 2 * expected["drops"]["duplicate"] + expected["kept"] + expected["other_split"]
    done = verify(tmp_path / "3", "--input", source, "--tokenizer", TOKENIZER, ranks=2)
    assert done.returncode == 0, done.stderr


def test_truncated_samples_that_are_the_same_are_duplicates_or_overlap(tmp_path):
    row = {"system_prompt": "", "question": "q" * 30, "response": "r" * 400}
    lines = [json.dumps(row | {"response": row["response"] + str(i)}) + "\n" for i in range(200)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    manifest = preprocess(tmp_path / "in.jsonl", tmp_path / "out", "--max-length", 80, "--on-too-long", "truncate",
                          "--validation", 0.2, "--rows-per-shard", 20)
    assert (manifest["kept"], manifest["other_split"], manifest["overlap"], manifest["truncated"]) == (1, 1, 1, 1)
    assert manifest["drops"]["duplicate"] == 198
    assert verify(tmp_path / "out").returncode == 0


def test_lines_are_counted_wherever_blocks_end(tmp_path):
    """Blank lines, and rows, that lie across the borders of 16 MiB blocks."""
    row = json.dumps({"system_prompt": "", "question": "q", "response": "r" * 20000}).encode() + b"\n"
    block = 1 << 24
    text = bytearray("\ufeff\n \r\n".encode())
    for filler in (b" \t" * 300 + b"\r\n", b"\n" * 900, b" " * 900 + row, row):
        text += row * ((block - 2 * len(row) - len(text) % block) // len(row) + 1)
        text += b" " * max(0, block - len(text) % block - 500)
        text += filler
    (tmp_path / "in.jsonl").write_bytes(text)
    count = sum(1 for line in text.removeprefix("\ufeff".encode()).split(b"\n") if line.strip(b" \t\r"))
    assert len(text) > 3 * block
    manifest = preprocess(tmp_path / "in.jsonl", tmp_path / "out", "--max-length", 100, ranks=2)
    assert manifest["rows"] == count
    assert manifest["sources"][0]["hash"].startswith("xxh3-128/16MiB:")


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_files_are_read_once_each(tmp_path, suffix):
    """Three compressed files of 20 shards each and a plain one, on three ranks: shards that begin in one file are one rank's, so
    no rank reads a file that another reads, but for the part of a shard at its end. Counted in the bytes the ranks read."""
    source = tmp_path / "in"
    source.mkdir()
    for i in range(3):
        write_rows(source / "rows", 4000, seed=i)
        packed = pa.compress((source / "rows").read_bytes(), codec="gzip" if suffix == "gz" else "zstd", asbytes=True)
        (source / f"{i}.jsonl.{suffix}").write_bytes(packed)
    write_rows(source / "rows", 1000, seed=9)
    (source / "rows").rename(source / "plain.jsonl")
    args = ("--input", source, "--tokenizer", TOKENIZER, "--rows-per-shard", 190)
    assert run(*args, "--output", tmp_path / "one").returncode == 0
    trace = tmp_path / "trace"
    if shutil.which("strace") is None:
        done = run(*args, "--output", tmp_path / "three", ranks=3)
    else:
        done = subprocess.run(["strace", "-f", "-qq", "-e", "trace=openat", "-o", trace, *command(*args, "--output", tmp_path / "three",
                              ranks=3)], env=ENV, capture_output=True, text=True, timeout=120)
        opened = trace.read_text().count(f".jsonl.{suffix}")
        # each: hashed, counted, read, and once more where a shard runs into it
        assert opened <= 3 * 4 + 4, opened
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_small_and_huge_files_balance(tmp_path):
    """Shares of the rows follow the ranks' speed, whatever the files are like."""
    source = tmp_path / "in"
    source.mkdir()
    write_rows(source / "m-huge.jsonl", 12000)
    for i in range(150):
        write_rows(source / f"{'az'[i % 2]}{i:03}.jsonl", 40, seed=100 + i)
    args = ("--input", source, "--tokenizer", TOKENIZER, "--rows-per-shard", 200)
    done = subprocess.run(command(*args, "--output", tmp_path / "out", ranks=3), capture_output=True, text=True,
                          env=dict(ENV, LLMFT_TEST_SLOW_RANK="2:500"), timeout=60)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stderr)
    assert sum(rows.values()) == 18000 and rows[2] <= 3000 and min(rows[0], rows[1]) > 3000, rows
    assert run(*args, "--output", tmp_path / "one").returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def verify(*args, ranks=1):
    return run("--verify", *args, ranks=ranks)


@pytest.mark.parametrize("ranks", [1, 3])
def test_verify_accepts_what_was_written(reference, ranks):
    output = reference[2]
    done = verify(output, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert "verified; not compared with its source" in done.stderr
    done = verify(output, "--input", SAMPLE, "--tokenizer", TOKENIZER, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert "samples compared with their source rows" in done.stderr and done.stderr.rstrip().endswith("verified")
    assert contents(output) == reference[1]


def damage(path):
    """name -> what is done to a folder, what the verdict says"""
    shard, valid = path / "shard-00003-of-00024.h5", path / "valid/shard-00002-of-00024.h5"

    def flip(file, where):
        content = bytearray(file.read_bytes())
        content[where] ^= 1
        file.write_bytes(content)

    def edit(file, key, add):
        manifest = json.loads(file.read_text())
        manifest[key] += add
        manifest.pop("hash")  # it would say so already
        file.write_text(json.dumps(manifest))

    return {
        "token": (lambda: flip(shard, 20000), "shard-00003-of-00024.h5"),
        "attribute": (lambda: flip(valid, valid.read_bytes().index(b"max_length") + 2), "valid/shard-00002-of-00024.h5"),
        "cut": (lambda: os.truncate(shard, 5000), "has 5000 bytes, the manifest says"),
        "missing": (shard.unlink, "shard-00003-of-00024.h5: missing"),
        "swapped": (lambda: shutil.copy(path / "shard-00004-of-00024.h5", shard), "shard-00003-of-00024.h5"),
        "sums": (lambda: edit(path / "manifest.json", "tokens", 1), "manifest.json: its numbers"),
        "overlap": (lambda: edit(path / "valid/manifest.json", "overlap", 1), "says that"),
        "duplicates": (lambda: flip(path / "duplicates.h5", -9), "duplicates.h5"),
    }


@pytest.mark.parametrize("name", list(damage(pathlib.Path())))
def test_verify_finds_damage(reference, tmp_path, name):
    shutil.copytree(reference[2], tmp_path / "out")
    act, says = damage(tmp_path / "out")[name]
    act()
    done = verify(tmp_path / "out", ranks=2 if name == "token" else 1)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr and len(error_lines(done)) == 1 and "NOT verified, 1 fault" in done.stderr


def test_verify_finds_wrong_tokens_under_right_checksums(reference, tmp_path):
    """A shard rewritten whole, with its hash in the manifest: only the source can tell."""
    shutil.copytree(reference[2], tmp_path / "out")
    shard = tmp_path / "out/shard-00003-of-00024.h5"
    with h5py.File(shard, "r+") as file:
        tokens = file["tokens"][:]
        tokens[tokens > 60] ^= 1
        file["tokens"][:] = tokens
    done = verify(tmp_path / "out", "--input", SAMPLE, "--tokenizer", TOKENIZER)
    assert done.returncode == 2 and "is not what source row" in done.stderr, done.stderr
    other = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(SAMPLE).slice(1), other)
    done = verify(reference[2], "--input", other, "--tokenizer", TOKENIZER)
    assert done.returncode == 2 and "is not the input that" in done.stderr


def table_rows(stderr):
    """rank -> rows, of the table of times"""
    lines = stderr.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["rank", "rows"])
    return {int(name): int(rows) for name, rows, *_ in map(str.split, lines[start + 1:]) if name.isdigit()}


def test_memory_does_not_grow_with_the_input(tmp_path):
    """Four times the rows, the same peak, of each rank; both far below 1 GiB."""
    write_rows(tmp_path / "rows.jsonl", 5000, words=200)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    peaks = []
    for files in (5, 20):
        source = tmp_path / f"in{files}"
        source.mkdir()
        for k in range(files):
            pq.write_table(pa.Table.from_pylist([row | {"question": f"{k}-{row['question']}"} for row in rows]), source / f"{k:02}.parquet")
        done = run("--input", source, "--tokenizer", TOKENIZER, "--output", tmp_path / f"out{files}", "--rows-per-shard", 5000, ranks=2)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["rank", "rows"])
        assert lines[start].split()[-2:] == ["peak", "MB"]
        peaks.append(max(float(line.split()[-1]) for line in lines[start + 1:start + 3]))
        shutil.rmtree(tmp_path / f"out{files}")
    assert peaks[1] < peaks[0] + 60 and peaks[1] < 512, peaks


@pytest.mark.parametrize("layout", ["one file", "many files"])
def test_a_slow_rank_holds_no_one_up(tmp_path, layout):
    """Rank 1 sleeps a second with every shard (a batch of rows at the most): half of them would take 50 s."""
    source = tmp_path / "in"
    source.mkdir()
    write_rows(source / "rows.jsonl", 20000)
    lines = (source / "rows.jsonl").read_bytes().splitlines(keepends=True)
    if layout == "many files":
        (source / "rows.jsonl").unlink()
        for i in range(0, len(lines), 50):
            (source / f"{i:05}.jsonl").write_bytes(b"".join(lines[i:i + 50]))
    args = ("--input", source, "--tokenizer", TOKENIZER, "--rows-per-shard", 200)
    started = time.time()
    done = subprocess.run(command(*args, "--output", tmp_path / "out", ranks=2), capture_output=True, text=True,
                          env=dict(ENV, LLMFT_TEST_SLOW_RANK="1:1000"), timeout=60)
    assert done.returncode == 0, done.stderr
    rows = table_rows(done.stderr)
    assert rows[0] + rows[1] == 20000 and rows[1] < 5000, done.stderr
    assert time.time() - started < 25


def test_preview_marks_the_supervised_text_and_writes_nothing(tmp_path):
    done = run("--input", SAMPLE, "--tokenizer", TOKENIZER, "--preview", 3, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count("<|begin_of_text|>") == 3
    assert done.stdout.count("<|end_header_id|>\n\n[[") == done.stdout.count("<|eot_id|>]]\n") == 3
    assert not list(tmp_path.iterdir())


def test_help_has_examples():
    done = run("--help")
    assert done.returncode == 0
    assert "mpirun -n 8 llmft preprocess" in done.stdout and "--max-length" in done.stdout


def bad_inputs(folder):
    """name -> (arguments, what the error says)"""
    table = pq.read_table(SAMPLE)
    cases = {}

    def case(name, says, source=SAMPLE, tokenizer=TOKENIZER, output=folder / "out", *more):
        cases[name] = (["--input", source, "--tokenizer", tokenizer, "--output", output, *more], says)

    def file(name, content):
        (folder / name).write_bytes(content)
        return folder / name

    whole = SAMPLE.read_bytes()
    lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    packed = gzip.compress(lines)
    case("missing file", "none.parquet: cannot read", folder / "none.parquet")
    case("no match", "no file matches", str(folder) + "/*.none")
    (folder / "empty").mkdir()
    case("empty folder", "nothing to read", folder / "empty")
    case("unknown suffix", "unknown kind of file", file("a.csv", b"a,b\n"))
    case("truncated parquet", "not a whole Parquet file", file("cut.parquet", whole[:-1000]))
    case("damaged parquet", "cannot decode row group", file("bad.parquet", whole[:500] + b"\x55" * 8000 + whole[8500:]))
    renamed = table.rename_columns(["id", "system_prompt", "question", "respones"])
    pq.write_table(renamed, folder / "renamed.parquet")
    case("wrong columns", "no column response (it has: id, system_prompt, question, respones); nearest: 'respones'",
         folder / "renamed.parquet")
    pq.write_table(table.set_column(2, "question", pa.array(range(len(table)))), folder / "typed.parquet")
    case("wrong type", "column question is INT64", folder / "typed.parquet")
    case("cut gzip", "corrupt gzip data", file("cut.jsonl.gz", packed[:-100]))
    case("damaged gzip", "corrupt gzip data", file("bad.jsonl.gz", packed[:5000] + b"\x00" * 100 + packed[5100:]))
    case("malformed line", "bad.jsonl:2401: not valid JSON", file("bad.jsonl", lines + b'{"question": \n'))
    case("wrong keys", "keys.jsonl:1: no column system_prompt, question, response",
         file("keys.jsonl", b'{"instruction": "x", "output": "y"}\n'))
    case("no rows", "no rows in the input", file("none.jsonl", b"\n"))
    case("no tokenizer", "none", SAMPLE, folder / "none")
    case("output is a file", "cannot make this folder", SAMPLE, TOKENIZER, file("afile", b""))
    case("output below a file", "cannot make this folder", SAMPLE, TOKENIZER, folder / "afile/out")
    case("output cannot be made", "cannot make this folder", SAMPLE, TOKENIZER, "/proc/none/out")
    case("unknown choice", "did you mean 'truncate'", SAMPLE, TOKENIZER, folder / "out", "--on-too-long", "truncat")
    case("out of range", "preprocess.validation", SAMPLE, TOKENIZER, folder / "out", "--validation", "1.5")
    case("input twice", "--input: given twice", SAMPLE, TOKENIZER, folder / "out", "--input", SAMPLE)
    case("lengths", "--min-length: 9 is more than the longest sample, --max-length 8", SAMPLE, TOKENIZER, folder / "out", "--min-length", 9, "--max-length", 8)
    cases["no input"] = (["--tokenizer", TOKENIZER, "--output", folder / "out"], "--input: is needed")
    return cases


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    return folder, bad_inputs(folder)


def error_lines(done):
    return [line for line in done.stderr.splitlines() if "error:" in line]


CASE_NAMES = ["missing file", "no match", "empty folder", "unknown suffix", "truncated parquet", "damaged parquet",
              "wrong columns", "wrong type", "cut gzip", "damaged gzip", "malformed line", "wrong keys", "no rows",
              "no tokenizer", "output is a file", "output below a file", "output cannot be made", "unknown choice",
              "out of range", "no input", "input twice", "lengths"]


@pytest.mark.parametrize("name", CASE_NAMES)
def test_bad_input_is_one_clear_error(cases, name):
    folder, table = cases
    assert sorted(table) == sorted(CASE_NAMES)
    args, says = table[name]
    done = run(*args)
    assert done.returncode == 2, done.stderr
    assert len(error_lines(done)) == 1, done.stderr
    assert says in done.stderr
    assert done.stdout == ""
    left = [path for path in (folder / "out").rglob("*") if path.is_file()] if (folder / "out").exists() else []
    assert left == []


@pytest.mark.parametrize("name", ["missing file", "damaged parquet", "cut gzip", "no tokenizer", "out of range", "no rows"])
def test_bad_input_ends_all_ranks_with_one_error(cases, name):
    folder, table = cases
    args, says = table[name]
    started = time.time()
    done = run(*args, ranks=4, timeout=30)
    assert time.time() - started < 10
    assert done.returncode == 2, done.stderr
    assert len(error_lines(done)) == 1, done.stderr
    assert says in done.stderr
    assert not (folder / "out" / "manifest.json").exists()


def test_a_disk_that_is_full_under_what_is_printed():
    command = [BINARY, "preprocess", "--input", SAMPLE, "--tokenizer", TOKENIZER, "--preview", "1"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2 and "standard output: cannot write (No space left on device)" in done.stderr


def test_unreadable_input_and_unwritable_output(tmp_path):
    """As a user who has no right to, also when the tests run as root."""
    for path in (tmp_path, *tmp_path.parents):
        if os.stat(path).st_uid == os.getuid() and str(path).startswith("/tmp/"):
            path.chmod(0o755)
    secret = tmp_path / "secret.parquet"
    shutil.copy(SAMPLE, secret)
    secret.chmod(0)
    output = tmp_path / "locked"
    output.mkdir()
    output.chmod(0o555)
    user = {"user": 65534} if os.getuid() == 0 else {}
    binary_runs = subprocess.run([BINARY, "preprocess", "--help"], env=ENV, capture_output=True, cwd="/", **user) \
        if os.access(BINARY, os.X_OK) else None
    if binary_runs is None or binary_runs.returncode != 0:
        pytest.skip("the program cannot be run as another user here")
    common = ("--tokenizer", TOKENIZER)
    done = run("--input", secret, "--output", tmp_path / "out", *common, cwd="/", **user)
    assert done.returncode == 2 and "secret.parquet: cannot open (Permission denied)" in done.stderr, done.stderr
    done = run("--input", SAMPLE, "--output", output, *common, cwd="/", **user)
    assert done.returncode == 2 and "locked: folder is not writable (Permission denied)" in done.stderr, done.stderr
    assert len(error_lines(done)) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=2m") != 0:
        pytest.skip(f"cannot mount a small file system here ({os.strerror(ctypes.get_errno())})")
    yield folder
    libc.umount2(str(folder).encode(), 2)


@pytest.mark.parametrize("ranks", [1, 2])
def test_full_disk_is_one_clear_error_and_leaves_whole_shards(small_disk, tmp_path, ranks):
    write_rows(tmp_path / "in.jsonl", 8000)
    args = ("--input", tmp_path / "in.jsonl", "--tokenizer", TOKENIZER, "--rows-per-shard", 500)
    done = run(*args, "--output", small_disk / "out", ranks=ranks, timeout=30)
    assert done.returncode == 2, done.stderr
    assert len(error_lines(done)) == 1, done.stderr
    assert "No space left on device" in done.stderr and "free space" in done.stderr
    left = sorted(path.name for path in (small_disk / "out").iterdir())
    assert "manifest.json" not in left
    if ranks == 1:
        assert not [name for name in left if ".tmp." in name]
    whole = tmp_path / "whole"
    assert run(*args, "--output", whole).returncode == 0
    for name in left:
        if name.endswith(".h5"):
            assert (small_disk / "out" / name).read_bytes() == (whole / name).read_bytes()
