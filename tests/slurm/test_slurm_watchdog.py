"""Ranks that are killed or stopped inside a Slurm job: who it was is named, and no rank is left."""
import os
import signal
import time

from conftest import TINY, Job

LIMIT = 3
STEPS = ("--steps", "100000", "--checkpoint-every", "0", "--watchdog", str(LIMIT))


def past_two_steps(clone, job, output):
    steps = clone.folder / output / "steps.csv"
    job.wait_until(lambda: steps.exists() and steps.read_text().count("\n") >= 3, "two steps")
    return job.rank_pids()


def submit(clone, output, nodes, per_node):
    """llmft train on four ranks, in a step that Slurm does not end when one of them ends badly."""
    script = clone.folder / f"{output}.sh"
    script.parent.mkdir(parents=True, exist_ok=True)
    options = " ".join(["--config inputs/tiny/train.yaml --data shards/tiny --strategy fsdp --output", output, *TINY, *STEPS])
    script.write_text("#!/bin/bash\nexport SLURM_PMIX_FENCE=ring OMPI_MCA_mpi_yield_when_idle=1\n"
                      f"srun --kill-on-bad-exit=0 ./llmft train {options}\n")
    printed = clone.folder / f"{output}.out"
    job = clone.cluster.run("sbatch", "--parsable", f"--nodes={nodes}", f"--ntasks-per-node={per_node}", "--no-requeue",
                            f"--chdir={clone.folder}", f"--output={printed}", script)
    return Job(clone.cluster, job, printed)


def verdict(job):
    return [line for line in job.text().splitlines() if "no progress for" in line]


def lose(job, pids, victim, what):
    """A rank, and when."""
    assert sorted(pids) == [0, 1, 2, 3]
    os.kill(pids[victim], what)
    return time.monotonic()


def test_lost_ranks_are_named_though_slurm_does_not_end_the_step(clone, preprocessed):
    """One rank killed, in another job one stopped; side by side."""
    lost = []
    for what, victim, nodes, per_node in ((signal.SIGKILL, 2, 4, 1), (signal.SIGSTOP, 1, 2, 2)):
        output = f"runs/watched-{what.name}"
        lost.append((submit(clone, output, nodes, per_node), output, what, victim))
    lost = [(job, victim, pids, lose(job, pids, victim, what))
            for job, output, what, victim in lost for pids in [past_two_steps(clone, job, output)]]
    for job, victim, pids, since in lost:
        job.wait_until(lambda: verdict(job), "the verdict", LIMIT + 10)
        seconds = time.monotonic() - since
        [line] = verdict(job)
        assert f"rank {victim} (" in line and f"process {pids[victim]})" in line and "gives no sign of life" in line, line
        assert sum(f"rank {r} (" in line for r in range(4)) == 1, line
        assert "the others wait in" in line and "--resume" in line
        assert seconds < LIMIT + 10, f"{seconds:.1f} s"
    for job, victim, pids, since in lost:
        job.wait("FAILED", seconds=40)
        assert not job.rank_pids()


def test_a_stopped_rank_ends_the_job_of_our_script(clone, preprocessed):
    job = clone.submit("train.sh", *TINY, *STEPS, options=("--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"),
                       config="inputs/tiny/train.yaml", data="shards/tiny", output="runs/stopped")
    pids = past_two_steps(clone, job, "runs/stopped")
    os.kill(pids[3], signal.SIGSTOP)
    job.wait("FAILED", seconds=LIMIT + 10 + 45)  # 30 s of them Slurm's grace for a process that does not end
    assert not job.rank_pids()
    [line] = verdict(job)
    assert f"rank 3 (n2, CPU, process {pids[3]})" in line and "gives no sign of life" in line
    assert job.field("Restarts") == "0"
