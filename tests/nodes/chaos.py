"""One training run through every fault, beside an undisturbed one: `make chaos`, or `python tests/nodes/chaos.py`.

Prints a table: seconds lost and steps repeated per fault; ends with status 1 if a step's loss or a transcript differs.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "training"), str(Path(__file__).parent)]

from faults import Faults, Outcome  # noqa: E402
from machines import why_not  # noqa: E402
from node_cluster import Job, NodesCluster, nodes_cluster  # noqa: E402
from tones_on_store import CONFIG_FILE, put_tones, tones_overrides  # noqa: E402

from jasper_ray.storage import object_store  # noqa: E402
from jasper_ray.training.report import read_log  # noqa: E402

DATA = "s3://jasper/data"
LOSS_TOLERANCE = 1e-3
NUM_NODES = 3
NUM_UTTERANCES = 960
STEPS_PER_EPOCH = 10
EPOCHS = 48
CHECKPOINT_STEPS = 10
RUN = (
    f"training.epochs={EPOCHS}",
    "data.cache_dir=/tmp/shards",
    # Few long steps and a mild rate, so that a sum in another order stays the small difference that it is: rounding
    # alone grows to 3e-2 in 1,120 steps of 3 micro-batches at 0.0005 (docs/benchmarks).
    "batching.microbatches_per_step=24",
    "optimizer.lr=0.00025",
    "schedule={policy: constant, warmup_epochs: 1}",
    # So much is hidden that no loss comes near zero, where rounding alone is more than the tolerance.
    "augment.time_masks=3",
    "augment.time_mask_max_frames=25",
)
ELASTIC = "cluster={num_workers: [1, 3], resize_interval_s: 4, startup_timeout_s: 30, max_failures: 20}"
CALM = "cluster={num_workers: 1}"
PLAIN = "cluster={num_workers: 3}"
INTERVALS = (5, 20, 80)
MOST_S = 2700
TABLE_HEAD = (
    "| fault | at step | went on after step | steps repeated | s to the first step | s lost | workers afterwards |\n"
    "|---|---|---|---|---|---|---|"
)
COSTS_HEAD = (
    "| checkpoint every | steps repeated | s to the first step | s lost | worker-seconds lost | "
    "worker-seconds by the formula |\n|---|---|---|---|---|---|"
)


def run_chaos(cluster: NodesCluster, events_file: Path | None = None) -> tuple[list[Outcome], float, float]:
    """Both runs; the lines of the disturbed one go into a file, if there is one.

    Returns:
        What each fault cost, and the seconds from first to last step of the undisturbed and of the disturbed run.
    """
    every = f"checkpoint.every_steps={CHECKPOINT_STEPS}"
    calm = cluster.train(str(CONFIG_FILE), *tones_overrides(DATA, "s3://jasper/calm", *RUN, every, CALM))
    require(calm.end(600) == 0, calm)
    print(f"undisturbed: {calm.steps()[-1][1]} steps in {span(calm):.0f} s", flush=True)
    job = cluster.train(str(CONFIG_FILE), *tones_overrides(DATA, "s3://jasper/chaos", *RUN, every, ELASTIC))
    faults = Faults(cluster, job, "s3://jasper/chaos")
    faults.play("a worker is killed (kill -9)", faults.kill_worker, at_step=25)
    faults.play("5 % of a node's packets are lost, in and out, for 20 s", faults.lose_packets)
    faults.play("a node dies (power cut)", faults.kill_node)
    faults.play("a node comes back", faults.add_nodes)
    faults.play("a node is cut off the network", faults.cut_node)
    faults.play("it comes back, as a new one", faults.add_nodes)
    faults.play("the node that writes a checkpoint dies while it writes", faults.kill_writer)
    faults.play("the object store is down for 30 s", faults.stop_store)
    require(job.end(600) == 0, job)
    if events_file:
        began_s = job.events[0].time_s
        events_file.write_text("".join(f"{event.time_s - began_s:8.2f} {event.line}\n" for event in job.events))
    return faults.outcomes, span(calm), span(job)


def span(job: Job) -> float:
    """Seconds from a job's first step to its last."""
    times = [time_s for time_s, _ in job.steps()]
    return times[-1] - times[0]


def require(condition: bool, job: Job) -> None:
    """End here, with the job's last lines, where something is not so."""
    if not condition:
        raise RuntimeError(f"the job ended with {job.process.returncode}:\n{job.tail(60)}")


def differences() -> list[float]:
    """Of each step's loss in both runs, relative; every step must be there once, with the same utterances."""
    losses, lists = [], []
    for run in ("calm", "chaos"):
        events = read_log(f"s3://jasper/{run}")
        steps = [(event["global_step"], event["loss"]) for event in events if event["event"] == "progress"]
        wanted = list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
        assert [step for step, _ in steps] == wanted, f"{run}: a step is missing or there twice"
        losses.append([float(str(loss)) for _, loss in steps])
        lists.append([event["microbatches"] for event in events if event["event"] == "utterances"])
    assert lists[0] == lists[1], "other utterances in a step"
    return [abs(calm - chaos) / abs(calm) for calm, chaos in zip(*losses, strict=True)]


def transcripts(cluster: NodesCluster, run: str) -> list[str]:
    """Of the evaluation set by a run's bundle."""
    file = f"s3://jasper/{run}/predictions.jsonl"
    command = [sys.executable, "-m", "jobs.evaluate", f"s3://jasper/{run}/bundle", f"{DATA}/evaluation"]
    job = cluster.submit(*command, "--predictions", file)
    require(job.end(300) == 0, job)
    return [json.loads(line)["hypothesis"] for line in object_store.read_bytes(file).splitlines()]


def cost_of_a_failure(cluster: NodesCluster, every_steps: int) -> tuple[Outcome, float]:
    """A run with a checkpoint every so many steps that loses a worker half-way between two of them.

    Returns:
        What that cost; seconds that writing a checkpoint took.
    """
    cluster.join_missing()
    output = f"s3://jasper/every-{every_steps}"
    at_step = next(step for step in itertools.count(every_steps // 2, every_steps) if step >= every_steps + 15)
    changes = (f"checkpoint.every_steps={every_steps}", f"training.stop_after_steps={at_step + 40}", PLAIN)
    job = cluster.train(str(CONFIG_FILE), *tones_overrides(DATA, output, *RUN, *changes))
    faults = Faults(cluster, job, output)
    outcome = faults.play(f"checkpoint every {every_steps} steps", faults.kill_worker, at_step=at_step)
    require(job.end(300) == 0, job)
    took_s = [float(str(event["took_s"])) for event in read_log(output) if event["event"] == "checkpoint"]
    return outcome, sum(took_s) / len(took_s)


def table(outcomes: list[Outcome]) -> list[str]:
    """Faults, as lines."""
    rows = []
    for outcome in outcomes:
        after = ", ".join(map(str, outcome.resumed_after)) or "not started anew"
        first_s = f"{outcome.first_step_s:.1f}" if outcome.resumed_after else "-"
        rows.append(
            f"| {outcome.fault} | {outcome.at_step} | {after} | {outcome.steps_repeated} | {first_s} | "
            f"{outcome.seconds_lost:.1f} | {outcome.num_workers} |"
        )
    return [TABLE_HEAD, *rows]


def costs(measured: dict[int, tuple[Outcome, float]]) -> list[str]:
    """What a failure costs by the interval of checkpoints, as lines."""
    rows = []
    # What all of them have in common; a mean, since it varies and not with the interval.
    restart_s = sum(outcome.first_step_s for outcome, _ in measured.values()) / len(measured)
    written_s = sum(took_s for _, took_s in measured.values()) / len(measured)
    for every_steps, (outcome, _) in measured.items():
        formula = NUM_NODES * (restart_s + written_s + every_steps * outcome.step_s / 2)
        rows.append(
            f"| {every_steps} steps ({every_steps * outcome.step_s:.1f} s) | {outcome.steps_repeated} | "
            f"{outcome.first_step_s:.1f} | {outcome.seconds_lost:.1f} | {NUM_NODES * outcome.seconds_lost:.0f} | "
            f"{formula:.0f} |"
        )
    means = f"with the means D + R = {restart_s:.1f} s, w = {written_s:.1f} s"
    return [COSTS_HEAD, *rows, "", f"Formula: {NUM_NODES} · (D + R + w + c / 2) {means} (docs/failures.md)."]


def page(outcomes: list[Outcome], facts: dict[str, object], by_interval: dict[int, tuple[Outcome, float]]) -> str:
    """The report."""
    lines = [
        "# Chaos",
        "",
        f"{time.strftime('%Y-%m-%d')}, `make chaos`: machines out of namespaces on a machine with {os.cpu_count()}",
        "cores, shared with other work: seconds are upper bounds and differ from run to run, steps are exact. Three",
        "nodes with a worker each, a head, an S3 server (OpenStack Swift) on a bridge; a small model, checkpoints",
        f"every {CHECKPOINT_STEPS} steps. Packets are dropped by iptables' `statistic` (no netem in this kernel).",
        "",
        *table(outcomes),
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "s to the first step: from the fault to the first step that was made after the last start since. s lost: until",
        "training was three steps further than ever before, less what new steps took before the fault; a fault that",
        "lasts (packets, store) is in it as a whole.",
        "",
    ]
    if by_interval:
        lines += [
            "## By the interval of checkpoints",
            "",
            "A worker is killed half-way between two checkpoints, in a run of its own for each interval.",
            "",
            *costs(by_interval),
            "",
        ]
    return "\n".join(lines)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", metavar="FOLDER", help="write the page DATE-chaos.md there")
    parser.add_argument(
        "--intervals", type=int, nargs="*", default=INTERVALS, metavar="STEPS", help="between checkpoints, %(default)s"
    )
    parser.add_argument("--events", type=Path, metavar="FILE", help="write the disturbed run's lines, with seconds")
    arguments = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"not here: {reason}")
        return 2
    watchdog = threading.Timer(MOST_S, os._exit, (3,))  # the machines die with this process
    watchdog.daemon = True
    watchdog.start()
    with nodes_cluster(NUM_NODES) as cluster, tempfile.TemporaryDirectory() as folder:
        put_tones(Path(folder), DATA, train=NUM_UTTERANCES)
        outcomes, calm_s, chaos_s = run_chaos(cluster, arguments.events)
        difference = differences()
        texts = [transcripts(cluster, run) for run in ("calm", "chaos")]
        print("\n".join([*table(outcomes), f"largest difference {max(difference):.1e}"]), flush=True)
        by_interval = {every_steps: cost_of_a_failure(cluster, every_steps) for every_steps in arguments.intervals}
    same = texts[0] == texts[1]
    facts = {
        "steps": f"{len(difference)}, each with the same utterances as in the undisturbed run, which has one worker",
        "largest relative difference of a step's loss to the undisturbed run": f"{max(difference):.1e}; "
        + ", ".join(
            f"{max(difference[:step]):.1e} up to step {step}" for step in range(100, EPOCHS * STEPS_PER_EPOCH, 100)
        ),
        "transcripts": f"{len(texts[0])}, {'all the same' if same else 'DIFFERENT'}, "
        f"{len(set(texts[0]))} of them distinct",
        "first to last step": f"{calm_s:.0f} s undisturbed, {chaos_s:.0f} s with all faults",
    }
    text = page(outcomes, facts, by_interval)
    print(text, flush=True)
    if arguments.write:
        (Path(arguments.write) / f"{time.strftime('%Y-%m-%d')}-chaos.md").write_text(text)
    return 0 if same and max(difference) <= LOSS_TOLERANCE else 1


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
