"""What the SLURM scripts do around the program: which ranks they start where, what they skip, what they say when something
is missing, and when a job goes back into the queue. The program is fake_llmft.sh; jobs and srun are real."""

import shutil
import time

import pytest

SCRIPTS = ("preprocess.sh", "train.sh", "scaling_ddp.sh", "scaling_fsdp.sh", "precision_study.sh")


@pytest.fixture
def runs(fake):
    """The fake clone's run folders, none yet."""
    for name in ("runs", "results"):
        shutil.rmtree(fake.folder / name, ignore_errors=True)
    return fake.folder / "runs"


def ranks_of(run):
    """[(rank, of how many, host, GPUs)] that worked on it."""
    lines = sorted((run / "ranks").read_text().splitlines())
    return [(int(words[1]), int(words[3]), words[5].rstrip(","), words[7]) for words in map(str.split, lines)]


def is_refused(job, *words):
    """Ended with 2 and one line on what to do, and nothing else happened."""
    text = job.wait("FAILED", code=2)
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), text
    for word in words:
        assert word in lines[0], text


# --- what is missing ---------------------------------------------------------------------------------------------


def test_submitted_from_elsewhere(fake, place, runs):
    elsewhere = place / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    jobs = [fake.submit(script, cwd=elsewhere) for script in SCRIPTS]
    fake.submit("train.sh", cwd=elsewhere, root=fake.folder, output="runs/away").wait()
    assert (runs / "away/run.json").exists()
    for job in jobs:
        is_refused(job, str(elsewhere), "LLMFT_ROOT")


def test_no_program_config_model_or_data(fake, runs):
    jobs = []
    for script in SCRIPTS:
        jobs.append((fake.submit(script, binary="./missing"), ("./missing", "make")))
    for script in SCRIPTS[1:]:
        jobs.append((fake.submit(script, config="inputs/none.yaml"), ("inputs/none.yaml",)))
        jobs.append((fake.submit(script, model="models/none"), ("models/none", "hf download")))
        jobs.append((fake.submit(script, data="shards/none"), ("shards/none", "sbatch slurm/preprocess.sh")))
    for job, words in jobs:
        is_refused(job, *words)
    assert not runs.exists()


def test_missing_input_and_tokenizer(fake):
    jobs = [fake.submit("preprocess.sh"), fake.submit("preprocess.sh", input="inputs/tiny/*.parquet", tokenizer="models/none")]
    is_refused(jobs[0], "data/OpenOrca", "hf download Open-Orca/OpenOrca")
    is_refused(jobs[1], "models/none", "hf download")


def test_unknown_site(fake):
    is_refused(fake.submit("train.sh", cluster="nowhere"), "nowhere.env", "generic", "sandbox")


def test_more_ranks_than_the_allocation_has(fake, runs):
    is_refused(fake.submit("train.sh", ranks=5), "5 ranks", "4 nodes, 1 a node")


def test_gpus_that_are_not_asked_for_by_node(fake):
    job = fake.submit("train.sh", options=("--nodes=2", "--ntasks-per-node=4", "--gpus=8"))
    is_refused(job, "--gpus-per-node=N")


def test_ranks_that_are_not_one_job(fake, runs):
    """The program's MPI and srun's PMI do not match: each rank would write the same run."""
    text = fake.submit("train.sh", FAKE_INFO="single").wait("FAILED", code=2)
    assert "error: srun started 4 processes that are not one MPI job of 4 ranks but 1" in text and "--mpi=pmix" in text
    assert not runs.exists()


# --- sites -------------------------------------------------------------------------------------------------------


def test_site_file(fake, runs):
    """A site's file is found by the cluster's name or by LLMFT_CLUSTER; what the submitter sets wins over it."""
    site = fake.folder / "slurm/clusters/mine.env"
    site.write_text(': "${LLMFT_OUTPUT:=runs/of-the-site}" "${LLMFT_CPU_BIND:=}"\nexport OMPI_MCA_mpi_yield_when_idle=0\n')
    try:
        for job in [fake.submit("train.sh", cluster="mine"), fake.submit("train.sh", cluster="mine", output="runs/of-the-user")]:
            job.wait()
    finally:
        site.unlink()
    assert sorted(path.name for path in runs.iterdir()) == ["of-the-site", "of-the-user"]


# --- ranks, nodes and GPUs ---------------------------------------------------------------------------------------


def test_ranks_fill_nodes_and_see_their_gpus(fake, runs):
    """Two nodes of two GPUs: 1 and 2 ranks on the first node, 4 on both. Each sees the GPUs of the ranks beside it."""
    job = fake.submit("scaling_fsdp.sh", options=("--nodes=2", "--gpus-per-node=2", "--ntasks-per-node=2"))
    assert "fence ring" in job.wait()
    cells = {ranks_of(run)[0][1]: ranks_of(run) for run in runs.iterdir()}
    assert cells == {1: [(0, 1, "n1", "0")],
                     2: [(0, 2, "n1", "0,1"), (1, 2, "n1", "0,1")],
                     4: [(0, 4, "n1", "0,1"), (1, 4, "n1", "0,1"), (2, 4, "n2", "0,1"), (3, 4, "n2", "0,1")]}


def test_more_gpus_than_tasks(fake, runs):
    """sbatch --gpus-per-node=6 alone: six ranks, though the script asks for four tasks."""
    fake.submit("train.sh", options=("--gpus-per-node=6",), output="runs/six").wait()
    assert [(rank, host, gpus) for rank, _, host, gpus in ranks_of(runs / "six")] == [(r, "n1", "0,1,2,3,4,5") for r in range(6)]


def test_rank_counts_and_precisions_can_be_chosen(fake, runs):
    fake.submit("scaling_ddp.sh", rank_counts="1 3", precisions="fp32 bf16", repeats=2).wait()
    names = sorted(path.name.split("-", 1)[1] for path in runs.iterdir())
    assert [name[: name.index("-x") + 3] for name in names] == [f"ddp-{p}-x{n}" for p in ("bf16", "fp32") for n in (1, 1, 3, 3)]
    assert sum(name.endswith("-r2") for name in names) == 4


def test_the_whole_grid_of_a_study(fake, runs):
    """sbatch slurm/precision_study.sh as it is: LoRA and full, samples of 512 tokens and of their own lengths, four precisions,
    three times, the most important ones first."""
    options = ("--gpus-per-node=0", "--ntasks-per-node=1")
    job = fake.submit("precision_study.sh", options=options, modes="lora full", lengths="fixed packed", repeats=2, FAKE_FAIL="*-fp16-*full-fixed*")
    text = job.wait("FAILED", code=1)
    assert "30 cells run, 0 finished before, 2 failed: runs/llama32_1b-ddp-fp16-x1-full-fixed-" in text
    order = [line.split("-") for line in (fake.folder / "results/benchmarks.csv").read_text().splitlines()]
    first = [f"{mode} {lengths} {p}" for mode in ("lora", "full") for lengths in ("fixed", "packed") for p in ("bf16", "fp32", "fp16", "tf32")]
    assert [f"{w[4]} {w[5]} {w[2]}" for w in order] == 2 * [cell for cell in first if cell != "full fixed fp16"]
    assert [w[-1] == "r2" for w in order] == 15 * [False] + 15 * [True]
    again = fake.submit("precision_study.sh", options=options, modes="lora full", lengths="fixed packed", repeats=2)
    assert "2 cells run, 30 finished before, 0 failed" in again.wait()


def test_scaling_studies_have_all_precisions(fake, runs):
    fake.submit("scaling_fsdp.sh", rank_counts="1 2", precisions="").wait()
    cells = sorted(path.name.split("-")[2:4] for path in runs.iterdir())
    assert cells == [[precision, n] for precision in ("bf16", "fp16", "fp32", "tf32") for n in ("x1", "x2")]


def test_settings_that_name_no_cell(fake, runs):
    jobs = [(fake.submit("scaling_ddp.sh", **setting), words) for setting, words in (
        ({"modes": "lora ful"}, ("LLMFT_MODES", "'ful'", "lora full")), ({"lengths": "512"}, ("LLMFT_LENGTHS", "fixed packed")),
        ({"precisions": "bf61"}, ("LLMFT_PRECISIONS", "bf61")), ({"rank_counts": "1,2"}, ("LLMFT_RANK_COUNTS", "1,2")),
        ({"adapter_rank": 0}, ("LLMFT_ADAPTER_RANK", "LLMFT_MODES=full")),
        ({"repeats": "x"}, ("LLMFT_REPEATS", "'x'", "from 1 on")), ({"repeats": 0}, ("LLMFT_REPEATS", "'0'", "from 1 on")),
        ({"steps": "abc"}, ("LLMFT_STEPS", "'abc'")), ({"budget": "1h"}, ("LLMFT_BUDGET", "'1h'")),
        ({"lengths": "fixed", "data_fixed": "shards/none"}, ("LLMFT_DATA_FIXED", "shards/none", "--min-length 512")))]
    for job, words in jobs:
        is_refused(job, *words)
    assert not runs.exists()


def test_a_budget_leaves_cells_out_and_names_them(fake, runs):
    text = fake.submit("scaling_ddp.sh", rank_counts="1 2", budget=60, cell_seconds=1000).wait()
    assert "0 cells run, 0 finished before, 0 failed" in text
    assert "left out, the budget of 60 s is used up: runs/llama32_1b-ddp-bf16-x1-" in text and "ddp-bf16-x2-" in text


def test_fp8_on_request(fake, runs):
    fake.submit("precision_study.sh", fp8=1, options=("--gpus-per-node=0", "--ntasks-per-node=1")).wait()
    precisions = [path.name.split("-")[2] for path in runs.iterdir()]
    assert sorted(precisions) == ["bf16", "fp16", "fp32", "fp8", "tf32"]


# --- cells -------------------------------------------------------------------------------------------------------


def test_a_failed_cell_does_not_stop_the_others_and_is_run_again(fake, runs):
    text = fake.submit("scaling_ddp.sh", FAKE_FAIL="*-x2-*").wait("FAILED", code=1)
    assert "2 cells run, 0 finished before, 1 failed: runs/" in text
    table = fake.folder / "results/benchmarks.csv"
    assert len(table.read_text().splitlines()) == 2
    assert "1 cells run, 2 finished before, 0 failed" in fake.submit("scaling_ddp.sh").wait()
    assert len(table.read_text().splitlines()) == 3


def test_other_settings_are_other_cells(fake, runs):
    """What was finished with other options, data or config is not taken for this study's."""
    counts = {"rank_counts": "1"}
    jobs = [fake.submit("scaling_ddp.sh", **counts, **change) for change in ({}, {"steps": 7}, {"adapter_rank": 4}, {"packs_per_rank": 2})]
    jobs.append(fake.submit("scaling_ddp.sh", "--train.lr=1e-3", **counts))
    for job in jobs:
        assert "1 cells run, 0 finished before" in job.wait()
    assert len(list(runs.iterdir())) == len(jobs)
    manifest = fake.folder / "shards/openorca/manifest.json"
    manifest.write_text('{"other": 1}')
    try:
        assert "1 cells run, 0 finished before" in fake.submit("scaling_ddp.sh", **counts).wait()
    finally:
        manifest.write_text("{}")
    assert "0 cells run, 1 finished before" in fake.submit("scaling_ddp.sh", **counts).wait()


# --- back into the queue -----------------------------------------------------------------------------------------


def waiting(go):
    """There once a rank's 'llmft info' waits for go: the script has set its traps by then."""
    return go.with_name("go.waiting")


@pytest.fixture
def go(place):
    """A file that jobs wait for, not there yet."""
    file = place / "go"
    for old in (file, waiting(file)):
        old.unlink(missing_ok=True)
    return file


def start(fake, runs, go, script="train.sh", **settings):
    """A job whose ranks work until go.touch()."""
    job = fake.submit(script, **{"output": "runs/one", "FAKE_UNTIL": go} | settings)
    ranks = int(settings.get("rank_counts", "4").split()[0])
    job.wait_until(lambda: any(len(ranks_of(path.parent)) == ranks for path in runs.glob("*/ranks")), "ranks at work")
    return job


def test_a_study_goes_on_with_the_cell_that_was_stopped(fake, runs, go):
    job = start(fake, runs, go, "scaling_ddp.sh", rank_counts="2 1")
    fake.cluster.run("scancel", "--batch", "--signal=USR1", job.id)
    job.wait_for_requeue()
    go.touch()
    text = job.wait()
    assert "requeueing job" in text and "2 cells run, 0 finished before, 0 failed" in text
    assert len((fake.folder / "results/benchmarks.csv").read_text().splitlines()) == 2


def test_no_cell_is_started_when_time_is_nearly_over(fake, runs, go):
    """The ranks finished in spite of the signal: that cell counts, the next one waits for the new start."""
    job = start(fake, runs, go, "scaling_ddp.sh", rank_counts="2 1", FAKE_DEAF=1)
    fake.cluster.run("scancel", "--batch", "--signal=USR1", job.id)
    job.wait_until(lambda: any(runs.glob("*/heard")), "ranks that heard the signal")  # the script has, before them
    go.touch()
    job.wait_for_requeue()
    assert "1 cells run, 1 finished before, 0 failed" in job.wait()


def test_a_cancelled_job_stays_cancelled(fake, runs, go):
    job = start(fake, runs, go)
    job.cancel()
    job.wait("CANCELLED")
    time.sleep(1)
    assert (job.state, job.field("Restarts")) == ("CANCELLED", "0")


def test_a_dead_rank_is_no_reason_to_requeue(fake, runs, go):
    job = fake.submit("train.sh", output="runs/one", FAKE_DIE=1, FAKE_UNTIL=go, FAKE_DEAF=1)
    started = time.monotonic()
    job.wait("FAILED", seconds=20)
    assert time.monotonic() - started < 12
    assert job.field("Restarts") == "0" and "Killed" in job.text()


def test_an_old_mark_is_no_reason_to_requeue(fake, runs):
    (runs / "one").mkdir(parents=True)
    (runs / "one/requeue").write_text("of an earlier start\n")
    job = fake.submit("train.sh", output="runs/one", FAKE_FAIL="one")
    job.wait("FAILED")
    assert job.field("Restarts") == "0"


def test_preempted_while_it_starts(fake, runs, go):
    """Before the program catches signals: it dies of SIGTERM, and the job must come back all the same."""
    job = fake.submit("train.sh", output="runs/one", FAKE_INFO_UNTIL=go)
    job.wait_until(waiting(go).exists, "waiting ranks")
    fake.cluster.run("sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 0.2")
    job.wait_for_requeue()
    go.touch()
    assert "preempted; requeueing job" in job.wait()


def test_preprocessing_is_requeued_at_once(fake, runs, go):
    """Its finished shards are the checkpoint."""
    job = fake.submit("preprocess.sh", options=("--ntasks-per-node=1",), input="inputs/tiny/sample.parquet", tokenizer="inputs/tiny/model",
                      FAKE_INFO_UNTIL=go)
    job.wait_until(waiting(go).exists, "waiting ranks")
    fake.cluster.run("scancel", "--batch", "--signal=USR1", job.id)
    job.wait_until(lambda: job.field("Restarts") == "1", "requeued")
    assert "the time limit is near; requeueing job" in job.text()


@pytest.mark.parametrize(("setting", "words"), [({"requeue": "no"}, "LLMFT_REQUEUE=no"), ({"max_restarts": 0}, "LLMFT_MAX_RESTARTS")])
def test_requeueing_can_be_limited(fake, runs, go, setting, words):
    job = start(fake, runs, go, **setting)
    fake.cluster.run("scancel", "--signal=USR1", job.id)
    text = job.wait("FAILED", code=1)
    assert words in text and "submit the script again" in text and job.field("Restarts") == "0"


def test_in_an_allocation_of_ones_own(fake, runs):
    """salloc, then the script as a command: Slurm sets fewer variables there."""
    fake.cluster.env |= {"LLMFT_OUTPUT": "runs/one"}
    try:
        fake.cluster.run("salloc", "--nodes=2", "--gpus-per-node=2", "--cpus-per-gpu=2", "bash", "slurm/train.sh", cwd=fake.folder)
    finally:
        del fake.cluster.env["LLMFT_OUTPUT"]
    assert [(rank, host, gpus) for rank, _, host, gpus in ranks_of(runs / "one")] == [
        (0, "n1", "0,1"), (1, "n1", "0,1"), (2, "n2", "0,1"), (3, "n2", "0,1")]
