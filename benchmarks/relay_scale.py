"""Losses and costs of one relay with many publishers, as in a cluster.

    python -m benchmarks.relay_scale [--publishers 256] [--seconds 120] [--simulated] [--stall 0]

Each publisher is a rank of one run that logs ten scalars ten times a second. The relay has only their connection files,
as on another host, and so receives everything over encrypted TCP.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from trainwire_protocol.journal.run_folder import list_attempts, list_ranks
from trainwire_protocol.journal.segments import list_segments
from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.transport.connection import connection_path
from trainwire_protocol.transport.server import HIGH_WATER_MARK

PROCESSES = 4
"""Number of processes that the publishers are distributed over."""

SAMPLE_SECONDS = 1.0
MAX_PRINTED_LINES = 5
MEMORY_SAMPLES = 10
"""Every n-th sample of the memory is printed."""


class Sample(NamedTuple):
    """The resources used so far."""

    at: float
    """Time on the monotonic clock."""
    relay: float
    """Processor seconds."""
    publishers: float
    """Processor seconds of all of them."""
    resident: float
    """The relay's resident memory in MB."""


def start_publishers(folder: Path, options: argparse.Namespace) -> list[subprocess.Popen[str]]:
    """Start all publishers, and wait until they are reachable."""
    count = options.publishers
    command = [
        sys.executable, "-m", "benchmarks.relay_publishers", str(folder), "--world-size", str(count),
        "--high-water-mark", str(options.high_water_mark), "--flush", str(options.flush),
        *(["--simulated"] if options.simulated else []),
    ]  # fmt: skip
    started = [
        subprocess.Popen(
            [*command, "--ranks", *map(str, range(first, count, PROCESSES))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for first in range(min(PROCESSES, count))
    ]  # fmt: skip
    for process in started:
        assert process.stdout and process.stdout.readline() == "ready\n"
    return started


def start_logging(publishers: Sequence[subprocess.Popen[str]], seconds: float) -> None:
    """Have all publishers log for this time, beginning at the same moment."""
    for process in publishers:
        assert process.stdin
        process.stdin.write(f"{time.time() + 1}\n{seconds}\n")
        process.stdin.flush()


def start_relay(connections: Path, copies: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the relay, with its standard error redirected to a file."""
    command = [sys.executable, "-m", "trainwire_sinks", "relay", str(connections), "--output", str(copies)]
    environment = os.environ | {"TRAINWIRE_BIND": "tcp://127.0.0.1:0"}
    with log.open("wb") as file:
        return subprocess.Popen([*command, "--until-over"], env=environment, stderr=file)


def stall(process: subprocess.Popen[bytes], after: float, seconds: float) -> None:
    """Suspend the relay after some time, and resume it later."""

    def stop() -> None:
        time.sleep(after)
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    if seconds:
        threading.Thread(target=stop, daemon=True).start()


def sample(relay: subprocess.Popen[bytes], publishers: Sequence[subprocess.Popen[str]]) -> Iterator[Sample]:
    """Yield the used resources, every second until the relay ends."""
    relay_process, others = psutil.Process(relay.pid), [psutil.Process(process.pid) for process in publishers]
    used = dict.fromkeys(others, 0.0)
    while relay.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for other in others:
                used[other] = max(used[other], processor_seconds(other))
            yield Sample(
                time.monotonic(),
                processor_seconds(relay_process),
                sum(used.values()),
                relay_process.memory_info().rss / 1e6,
            )
        time.sleep(SAMPLE_SECONDS)


def processor_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def journal_bytes(folder: Path, rank: int) -> bytes:
    attempts = list_attempts(folder, rank)
    return b"".join(path.read_bytes() for attempt in attempts for path in list_segments(attempt.folder))


def measure(options: argparse.Namespace, root: Path) -> None:
    """Run publishers and relay, and print the results."""
    count, seconds = options.publishers, options.seconds
    folder, connections, copies = root / "run", root / "connections", root / "copies"
    connections.mkdir()
    publishers = start_publishers(folder, options)
    for rank in range(count):
        shutil.copy(connection_path(folder, rank), connections / f"{rank}.json")
    relay = start_relay(connections, copies, root / "log")
    wait_for_relay(copies, count)
    start_logging(publishers, seconds)
    stall(relay, seconds / 3, options.stall)
    samples = list(sample(relay, publishers))
    for process in publishers:
        process.communicate(timeout=60)
    copy = next(path for path in copies.iterdir() if not path.name.startswith("."))
    same = sum(journal_bytes(folder, rank) == journal_bytes(copy, rank) for rank in range(count))
    events = sum(report.head + 1 for report in verify_run(folder))
    lost = events - sum(report.events for report in verify_run(copy))
    print(f"{count} publishers for {seconds:g} s: {events:,} events, {events / seconds:,.0f} a second")
    print(f"lost: {lost}; {same} of {count} copies are identical; exit code {relay.returncode}")
    lines = [line for line in (root / "log").read_text().splitlines() if not line.startswith("trainwire: relaying")]
    print("".join(f"  {line}\n" for line in lines[:MAX_PRINTED_LINES]), end="")
    print_costs(samples, seconds, events)
    print(f"on disk: {sum(len(journal_bytes(folder, rank)) for rank in range(count)) / events:.1f} bytes an event")


def print_costs(samples: Sequence[Sample], seconds: float, events: int) -> None:
    """Print the processor time while the publishers logged, and the relay's memory until its end."""
    first, end = samples[0], samples[-1]
    last = [sample for sample in samples if sample.at - first.at <= seconds][-1]
    elapsed = last.at - first.at or 1.0
    relay, others = (last.relay - first.relay) / elapsed, (last.publishers - first.publishers) / elapsed
    print(f"while they logged: the relay {100 * relay:.0f} % of a core, the publishers {100 * others:.0f} %")
    print(f"the relay in total: {1e6 * (end.relay - first.relay) / events:.1f} s of a core for a million events")
    print(f"it ended {end.at - first.at - seconds:.0f} s after the last event was logged")
    memory = ", ".join(f"{sample.resident:.0f}" for sample in samples[::MEMORY_SAMPLES])
    peak = max(sample.resident for sample in samples)
    print(f"its memory in MB, every {MEMORY_SAMPLES * SAMPLE_SECONDS:g} s: {memory}; at most {peak:.0f}")


def wait_for_relay(copies: Path, count: int) -> None:
    """Wait until the relay has a copy of every publisher."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        runs = [path for path in copies.glob("*") if not path.name.startswith(".")]
        if runs and len(list_ranks(runs[0])) == count:
            return
        time.sleep(0.2)
    raise TimeoutError("the relay does not have a copy of every publisher after 120 s")


def main() -> None:
    """Parse the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publishers", type=int, default=256, help="number of publishers")
    parser.add_argument("--seconds", type=float, default=120.0, help="duration of the logging")
    parser.add_argument("--simulated", action="store_true", help="publish without the threads of a bus")
    parser.add_argument("--stall", type=float, default=0.0, help="seconds for which the relay is suspended")
    parser.add_argument("--flush", type=float, default=0.5, help="seconds between the batches of a publisher")
    parser.add_argument("--high-water-mark", type=int, default=HIGH_WATER_MARK, help="messages queued for the relay")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        measure(options, Path(root))


if __name__ == "__main__":
    main()
