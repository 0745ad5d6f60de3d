"""Many publishers into one relay: what it loses, and what it takes.

python -m benchmarks.relay_scale [--publishers 256] [--seconds 120] [--simulated] [--stall 0] simulates a cluster on
this host. Each publisher is a rank of one run that logs ten scalars ten times a second; the relay knows nothing but
their connection files, as on another host, and so gets everything over TCP, encrypted.
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
"""Processes that the publishers are spread over."""

SAMPLE_SECONDS = 1.0
MAX_COMPLAINTS = 5
MEMORY_SAMPLES = 10
"""Samples from one of those that are printed to the next."""


class Sample(NamedTuple):
    """What the processes have taken so far."""

    at: float
    """On the monotonic clock."""
    relay: float
    """Seconds of the processor's time."""
    publishers: float
    resident: float
    """Megabytes of the relay's memory."""


def start_publishers(folder: Path, options: argparse.Namespace) -> list[subprocess.Popen[str]]:
    """Start them all, and wait until they can be reached."""
    count = options.publishers
    own = [
        sys.executable, "-m", "benchmarks.relay_publishers", str(folder), "--world-size", str(count),
        "--high-water-mark", str(options.high_water_mark), "--flush", str(options.flush),
        *(["--simulated"] if options.simulated else []),
    ]  # fmt: skip
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
        process.stdin.write(f"{time.time() + 1}\n{seconds}\n")
        process.stdin.flush()


def relay(known: Path, copies: Path, told: Path) -> subprocess.Popen[bytes]:
    """Start it; what it has to say goes into a file."""
    command = [sys.executable, "-m", "trainwire_sinks", "relay", str(known), "--output", str(copies)]
    environment = os.environ | {"TRAINWIRE_BIND": "tcp://127.0.0.1:0"}
    with told.open("wb") as file:
        return subprocess.Popen([*command, "--until-over"], env=environment, stderr=file)


def stall(process: subprocess.Popen[bytes], after: float, seconds: float) -> None:
    """Stop the relay after a while, and let it go on later."""

    def stop() -> None:
        time.sleep(after)
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    if seconds:
        threading.Thread(target=stop, daemon=True).start()


def samples(relaying: subprocess.Popen[bytes], publishers: Sequence[subprocess.Popen[str]]) -> Iterator[Sample]:
    """What the processes take, every second until the relay ends."""
    looked_at, others = psutil.Process(relaying.pid), [psutil.Process(process.pid) for process in publishers]
    used = dict.fromkeys(others, 0.0)
    while relaying.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for other in others:
                used[other] = max(used[other], processor_seconds(other))
            yield Sample(
                time.monotonic(), processor_seconds(looked_at), sum(used.values()), looked_at.memory_info().rss / 1e6
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
    """Run it all, and print what was found."""
    count, seconds = options.publishers, options.seconds
    folder, known, copies = root / "run", root / "known", root / "copies"
    known.mkdir()
    publishers = start_publishers(folder, options)
    for rank in range(count):
        shutil.copy(connection_path(folder, rank), known / f"{rank}.json")
    relaying = relay(known, copies, root / "told")
    wait_for_relay(copies, count)
    let_go(publishers, seconds)
    stall(relaying, seconds / 3, options.stall)
    taken = list(samples(relaying, publishers))
    for process in publishers:
        process.communicate(timeout=60)
    copy = next(path for path in copies.iterdir() if not path.name.startswith("."))
    same = sum(journal_bytes(folder, rank) == journal_bytes(copy, rank) for rank in range(count))
    events = sum(report.head + 1 for report in verify_run(folder))
    lost = events - sum(report.events for report in verify_run(copy))
    print(f"{count} publishers for {seconds:g} s: {events:,} events, {events / seconds:,.0f} a second")
    print(f"lost: {lost}; {same} of {count} copies are the same byte for byte; exit code {relaying.returncode}")
    print("".join(f"  {line}\n" for line in rejections((root / "told").read_text())), end="")
    tell(taken, seconds, events)
    print(f"on disk: {sum(len(journal_bytes(folder, rank)) for rank in range(count)) / events:.1f} bytes an event")


def rejections(told: str) -> list[str]:
    """The first lines of what the relay told beside what it relays."""
    return [line for line in told.splitlines() if not line.startswith("trainwire: relaying")][:MAX_COMPLAINTS]


def tell(taken: Sequence[Sample], seconds: float, events: int) -> None:
    """Print what the processes took while the publishers logged, and the relay's memory all the time."""
    first = taken[0]
    logging = [sample for sample in taken if sample.at - first.at <= seconds] or [first]
    last, took = logging[-1], logging[-1].at - first.at or 1.0
    share, others = (last.relay - first.relay) / took, (last.publishers - first.publishers) / took
    print(f"while they logged: the relay {100 * share:.0f} % of a core, the publishers {100 * others:.0f} %")
    print(
        f"the relay, to its end: {1e6 * (taken[-1].relay - first.relay) / events:.1f} s of a core for a million events"
    )
    print(f"it ended {taken[-1].at - first.at - seconds:.0f} s after the last was logged")
    shown = ", ".join(f"{sample.resident:.0f}" for sample in taken[::MEMORY_SAMPLES])
    print(f"its memory in MB, every {MEMORY_SAMPLES * SAMPLE_SECONDS:g} s: {shown}; at most {peak(taken):.0f}")


def peak(taken: Sequence[Sample]) -> float:
    return max(sample.resident for sample in taken)


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
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publishers", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--simulated", action="store_true", help="only what buses do on the wire and on the disk")
    parser.add_argument("--stall", type=float, default=0.0, help="seconds for which the relay is stopped meanwhile")
    parser.add_argument("--flush", type=float, default=0.5, help="seconds from one batch of a publisher to the next")
    parser.add_argument("--high-water-mark", type=int, default=HIGH_WATER_MARK, help="messages kept for the relay")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        measure(options, Path(root))


if __name__ == "__main__":
    main()
