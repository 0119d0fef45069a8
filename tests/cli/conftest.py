import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import runs  # noqa: E402


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A Llama of two layers and 0.65 M parameters, with the shipped tokenizer."""
    return runs.make_model(tmp_path_factory.mktemp("model") / "two-layers")


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return runs.make_shards(tmp_path_factory.mktemp("shards") / "orca")


@pytest.fixture(scope="session")
def train_args(model, shards, tmp_path_factory):
    """The start of every small training run; later options win."""
    return ["train", "--model", model, "--data", shards, "--device", "cpu", "--pack-tokens", 128, "--batch-packs", 4,
            "--lr", "4e-3", "--train.warmup_steps=1", "--adapter-rank", 4, "--precision", "fp32", "--steps", 4,
            "--results", tmp_path_factory.mktemp("results") / "benchmarks.csv"]


@pytest.fixture
def train(train_args):
    """train(path, options...) -> Run, which has ended well."""

    def run(path, *args, ranks=1):
        done = runs.llmft(*train_args, "--output", path, *args, ranks=ranks)
        assert done.returncode == 0, done.stderr
        return runs.Run(pathlib.Path(path), done.stderr)

    return run


@pytest.fixture(scope="session")
def train_once(train_args, tmp_path_factory):
    """The same for runs that several tests look at: each is made once, and none may be changed."""
    made = {}

    def run(*args, ranks=1):
        key = (ranks, *map(str, args))
        if key not in made:
            path = tmp_path_factory.mktemp("run") / "run"
            done = runs.llmft(*train_args, "--output", path, *args, ranks=ranks)
            assert done.returncode == 0, done.stderr
            made[key] = runs.Run(path, done.stderr)
        return made[key]

    return run
