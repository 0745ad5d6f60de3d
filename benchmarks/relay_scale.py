"""Many publishers into one relay: what it loses, and what it takes.

python -m benchmarks.relay_scale [--publishers 256] [--seconds 60] simulates a cluster on this host. Each publisher is
a bus of its own, a rank of one run, that logs ten scalars ten times a second; the relay knows nothing but their
connection files, as on another host, and so gets everything over TCP, encrypted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

import trainwire
from trainwire_protocol.connection import connection_path
from trainwire_protocol.journal import list_segments
from trainwire_protocol.run_folder import list_attempts, list_ranks
from trainwire_protocol.verification import verify_run

PROCESSES = 4
"""Processes that the publishers are spread over: each bus has threads of its own all the same."""

FLUSH_SECONDS = 0.5
SAMPLE_SECONDS = 1.0
MEMORY_SAMPLES = 5
"""Samples from one of those that are printed to the next."""
VALUES = {f"metric-{number}": 0.5 for number in range(10)}


def publish(folder: Path, ranks: Sequence[int], world_size: int) -> None:
    """Log from these ranks until standard input ends."""
    with ExitStack() as stack:
        buses = [stack.enter_context(open_bus(folder, rank, world_size)) for rank in ranks]
        print("ready", flush=True)
        begin = float(sys.stdin.readline())
        end = begin + float(sys.stdin.readline())
        step = 0
        while time.time() < end:
            step += 1
            time.sleep(max(0.0, begin + step * 0.1 - time.time()))
            for bus in buses:
                bus.log(VALUES, step=step)
        for bus in buses:
            bus.close(timeout=60)


def open_bus(folder: Path, rank: int, world_size: int) -> trainwire.EventBus:
    return trainwire.open_bus(
        folder, rank=rank, world_size=world_size, bind="tcp://127.0.0.1:0", flush_interval=FLUSH_SECONDS
    )


def start_publishers(folder: Path, count: int) -> list[subprocess.Popen[str]]:
    """Start them all, and wait until they can be reached."""
    own = [sys.executable, "-m", "benchmarks.relay_scale", "--folder", str(folder), "--publishers", str(count)]
    started = [
        subprocess.Popen(
            [*own, "--ranks", *map(str, range(first, count, PROCESSES))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for first in range(min(PROCESSES, count))
    ]  # fmt: skip
    for process in started:
        assert process.stdout and process.stdout.readline() == "ready\n"
    return started


def let_go(publishers: Sequence[subprocess.Popen[str]], seconds: float) -> None:
    """Let all publishers log for so long, from the same moment on."""
    for process in publishers:
        assert process.stdin
        process.stdin.write(f"{time.time() + 2}\n{seconds}\n")
        process.stdin.flush()


def relay(known: Path, copies: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trainwire_sinks", "relay", str(known), "--output", str(copies)]
    environment = os.environ | {"TRAINWIRE_BIND": "tcp://127.0.0.1:0"}
    return subprocess.Popen([*command, "--until-over"], env=environment, stderr=subprocess.DEVNULL)


def samples(process: subprocess.Popen[bytes]) -> Iterator[tuple[float, float]]:
    """Megabytes of memory and seconds of the processor's time, every second until the process ends."""
    looked_at = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = looked_at.cpu_times()
            yield looked_at.memory_info().rss / 1e6, times.user + times.system
        time.sleep(SAMPLE_SECONDS)


def journal_bytes(folder: Path, rank: int) -> bytes:
    attempts = list_attempts(folder, rank)
    return b"".join(path.read_bytes() for attempt in attempts for path in list_segments(attempt.folder))


def measure(count: int, seconds: float, root: Path) -> None:
    """Run it all, and print what was found."""
    folder, known, copies = root / "run", root / "known", root / "copies"
    known.mkdir()
    publishers = start_publishers(folder, count)
    for rank in range(count):
        shutil.copy(connection_path(folder, rank), known / f"{rank}.json")
    relaying = relay(known, copies)
    wait_for_relay(copies, count)
    let_go(publishers, seconds)
    begun, memory, used = time.monotonic(), list[float](), list[float]()
    for resident, busy in samples(relaying):
        memory.append(resident)
        used.append(busy)
    took = time.monotonic() - begun
    for process in publishers:
        process.communicate(timeout=60)
    copy = next(path for path in copies.iterdir() if not path.name.startswith("."))
    same = sum(journal_bytes(folder, rank) == journal_bytes(copy, rank) for rank in range(count))
    events = sum(report.head + 1 for report in verify_run(folder))
    lost = events - sum(report.events for report in verify_run(copy))
    print(f"{count} publishers for {seconds:g} s: {events:,} events, {events / seconds:,.0f} a second")
    print(f"lost: {lost}; {same} of {count} copies are the same byte for byte; exit code {relaying.returncode}")
    print(f"the relay: {100 * (used[-1] - used[0]) / took:.0f} % of a core over {took:.0f} s")
    shown = ", ".join(f"{resident:.0f}" for resident in memory[::MEMORY_SAMPLES])
    print(f"its memory in MB, every {MEMORY_SAMPLES * SAMPLE_SECONDS:g} s: {shown}")
    print(f"on disk: {sum(len(journal_bytes(folder, rank)) for rank in range(count)) / events:.1f} bytes an event")


def wait_for_relay(copies: Path, count: int) -> None:
    """Wait until the relay follows every publisher."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        runs = [path for path in copies.glob("*") if not path.name.startswith(".")]
        if runs and len(list_ranks(runs[0])) == count:
            return
        time.sleep(0.2)
    raise TimeoutError("the relay does not follow all publishers")


def main() -> None:
    """Measure, or be one of the publishing processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publishers", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ranks", type=int, nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ranks is not None:
        publish(arguments.folder, arguments.ranks, arguments.publishers)
        return
    with tempfile.TemporaryDirectory() as root:
        measure(arguments.publishers, arguments.seconds, Path(root))


if __name__ == "__main__":
    main()
