"""Time and memory of the commands on a run of ten million events: python benchmarks/large_run.py [EVENTS]

The journal is written to a temporary folder: ten scalars per step, in ten epochs. A second run differs from the first
in a single value, in its last epoch. Memory is the peak resident size of the command's process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trainwire_protocol.events import Event
from trainwire_protocol.journal.run_folder import Lease, begin_attempt
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.wire import Header, encode_batch

METRICS = [f"train/metric-{number}" for number in range(10)]
STEPS_PER_BATCH = 50
BATCH_EVENTS = STEPS_PER_BATCH * len(METRICS)
EPOCHS = 10
STARTED = 1.75e9


def write_run(folder: Path, events: int, differs_at: int | None = None) -> None:
    """Write a run of this many scalars; if `differs_at` is given, one value of that step is changed."""
    attempt = begin_attempt(folder, 0, "benchmark")
    writer = JournalWriter(attempt.folder)
    seq = 0
    for group in groups(events, differs_at):
        is_last = group[-1].name == "run/finished"
        before = {"event": seq - 1}
        header = Header(attempt.run, 0, attempt.number, "event", seq, len(group), before, last=is_last)
        writer.append([encode_batch(header, group)])
        seq += len(group)
    writer.close()
    attempt.write_lease(Lease(ProcessIdentity.of_this_process(), "benchmark", time.time(), released=True))


def groups(events: int, differs_at: int | None) -> Iterator[list[Event]]:
    """Yield the events of each batch."""
    yield [Event("run/started", {"run": "large", "rank": 0, "world_size": 1}, "lifecycle", STARTED, 0)]
    batches = max(EPOCHS, events // BATCH_EVENTS)
    for number in range(batches):
        steps = range(number * STEPS_PER_BATCH + 1, (number + 1) * STEPS_PER_BATCH + 1)
        group = [
            Event(name, 1.0 / step + index, "scalar", STARTED + step / 100, step)
            for step in steps
            for index, name in enumerate(METRICS)
        ]
        if differs_at is not None and differs_at in steps:
            group[(differs_at - steps[0]) * len(METRICS) + 3] = Event(METRICS[3], 0.0, "scalar", STARTED, differs_at)
        yield group
        if (number + 1) * EPOCHS % batches < EPOCHS:
            epoch = (number + 1) * EPOCHS // batches
            best = {"epoch": 1, "metric": "dev/f1", "score": 0.5}
            value = {"epoch": epoch, "complete": True, "best": best, "metrics": {}}
            yield [Event("epoch/finished", value, "lifecycle", STARTED, steps[-1])]
    yield [Event("run/finished", {"reason": None}, "lifecycle", STARTED, batches * STEPS_PER_BATCH)]


def measure(*arguments: object) -> tuple[float, float, float]:
    """Run `trainwire` and return its elapsed seconds, its processor seconds, and its peak memory in MB."""
    command = [sys.executable, "-m", "trainwire_sinks", *map(str, arguments)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory(prefix="trainwire-large-") as temporary:
        folder = Path(temporary)
        one, other = folder / "runs" / "one", folder / "runs" / "other"
        write_run(one, events)
        write_run(other, events, differs_at=events // len(METRICS) * 19 // 20)
        size = sum(path.stat().st_size for path in one.rglob("*.journal"))
        print(f"{events:,} events, {size / 1e6:,.0f} MB of journal\n")
        print("| command | seconds | processor seconds | peak MB |\n|---|---|---|---|", flush=True)
        commands = {
            "runs": ["runs", folder / "runs"],
            "tail": ["tail", one],
            "export csv": ["export", one, "-o", folder / "one.csv"],
            "export jsonl": ["export", one, "-o", folder / "one.jsonl"],
            "export parquet": ["export", one, "-o", folder / "one.parquet"],
            "compare": ["compare", one, other],
            "verify": ["verify", one],
        }
        for name, command in commands.items():
            seconds, processor_seconds, megabytes = measure(*command)
            print(f"| {name} | {seconds:.1f} | {processor_seconds:.1f} | {megabytes:.0f} |", flush=True)
            for path in folder.glob("one.*"):
                path.unlink()


if __name__ == "__main__":
    main()
