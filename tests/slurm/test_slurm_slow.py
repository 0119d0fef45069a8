"""What takes Slurm itself a minute: a real time limit, and a node that is lost."""

from conftest import TINY
from test_slurm import TRAINING, steps_done

ENDLESS = {**TRAINING, "steps": 1000000}


def test_the_time_limit(clone, preprocessed):
    """Slurm looks at limits every half minute: with one minute to run, the signal comes 20 to 60 seconds after the start."""
    job = clone.submit("train.sh", *TINY, options=("--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--time=1",
                                                   "--signal=B:USR1@30"), output="runs/limit", **ENDLESS)
    job.wait_until(lambda: job.field("Restarts") == "1", "requeued", 90)
    done = steps_done(clone, "runs/limit")
    job.wait_for_requeue()
    job.wait_until(lambda: f"resuming after step {done} " in job.text(), "resumed", 60)
    job.wait_until(lambda: steps_done(clone, "runs/limit") > done, "a step more")
    assert "stopped by a signal after step" in job.text()
    job.cancel()
    job.wait("CANCELLED")


def test_a_lost_node(clone, preprocessed):
    """Slurm itself requeues the job; the script goes on from the last checkpoint."""
    job = clone.submit("train.sh", *TINY, "--checkpoint-every", 2, output="runs/lost", **ENDLESS)
    job.wait_until(lambda: steps_done(clone, "runs/lost") >= 5, "five steps")
    clone.cluster.tell("crash", "n3")
    clone.cluster.run("scontrol", "update", "nodename=n3", "state=down", "reason=crashed")
    job.wait_for_requeue()
    clone.cluster.tell("boot", "n3")
    job.wait_until(lambda: "resuming after step" in job.text(), "resumed", 90)
    done = steps_done(clone, "runs/lost")
    job.wait_until(lambda: steps_done(clone, "runs/lost") > done, "a step more")
    job.cancel()
    job.wait("CANCELLED")
