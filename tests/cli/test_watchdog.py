"""A rank that stands still, dies or is slow is named, and no rank is left running."""
import os
import pathlib
import select
import signal
import time

import pytest
from runs import finish, rank_pids, start, wait_for_step
from runs import Run

LIMIT = 3


@pytest.fixture
def running(train_args, tmp_path):
    """Runs that would go on for a long time, past their first step."""
    processes = []

    def begin(*args, ranks):
        output = tmp_path / f"run-{len(processes)}"
        process = start(*train_args, "--output", output, "--steps", 100000, "--checkpoint-every", 0, "--watchdog", LIMIT, *args,
                        ranks=ranks)
        processes.append(process)
        wait_for_step(process, Run(output), 1)
        return process, rank_pids(process)

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def gone(pids, seconds=10):
    end = time.time() + seconds
    while time.time() < end:
        alive = [p for p in pids if pathlib.Path(f"/proc/{p}/stat").exists()
                 and pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def test_a_stopped_rank_is_named_and_all_are_ended(running):
    """In two runs, side by side."""
    runs = []
    for strategy, ranks, victim in (("ddp", 2, 0), ("fsdp", 4, 3)):
        process, pids = running("--strategy", strategy, ranks=ranks)
        os.kill(pids[victim], signal.SIGSTOP)
        runs.append((process, pids, victim, time.time()))
    for process, pids, victim, stopped in runs:
        stderr = finish(process, timeout=LIMIT + 25)
        [verdict] = [line for line in stderr.splitlines() if "no progress for" in line]
        assert f"rank {victim} (" in verdict and f"process {pids[victim]})" in verdict and "gives no sign of life" in verdict
        assert "the others wait in" in verdict and "--resume" in verdict
        assert sum(f"rank {r} (" in verdict for r in range(len(pids))) == 1
        assert process.returncode != 0
        assert time.time() - stopped < LIMIT + 10 + 10, "named in time, and the launcher needs some seconds for a stopped process"
        assert gone(pids)


def test_a_slow_rank_is_named(running):
    process, pids = running("--watchdog", 60, ranks=2)
    said, end = b"", time.time() + 40
    while b"is a straggler" not in said and time.time() < end:
        os.kill(pids[1], signal.SIGSTOP)
        time.sleep(0.05)
        os.kill(pids[1], signal.SIGCONT)
        time.sleep(0.05)
        if select.select([process.stderr], [], [], 0)[0]:
            said += os.read(process.stderr.fileno(), 65536)
    process.send_signal(signal.SIGTERM)
    stderr = said.decode() + finish(process)
    slow = [line for line in stderr.splitlines() if "is a straggler" in line]
    assert slow and all("rank 1 (" in line for line in slow), stderr


def test_the_watch_leaves_nothing(train, tmp_path):
    run = train(tmp_path / "run", "--watchdog", 1, ranks=2)
    assert not (run.path / "heartbeat").exists()
    assert "no progress" not in run.stderr
