"""What reads a whole recorded run, `export` and `verify`, against reading and decoding its journal and no more."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.large_run import write_run
from benchmarks.result import Result, Size
from benchmarks.sinks import as_in_a_sink
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.segments import JournalReader
from trainwire_sinks.cli.export import export
from trainwire_sinks.cli.verify import verify


def export_and_verify(size: Size) -> Iterator[Result]:
    """Events a second of each, and their share of the decoder's rate: medians of rounds in which both take turns."""
    events, rounds = size.of(1_000_000, 50_000), size.of(3, 1)
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        write_run(run, events)
        for name, read in commands(run).items():
            pairs = [(seconds(read), seconds(lambda: decode(run))) for _ in range(rounds)]
            rate = events / statistics.median(ours for ours, _ in pairs)
            share = statistics.median(decoding / ours for ours, decoding in pairs)
            told = f"{rate:,.0f} events/s, {share:.0%} of the decoder's rate"
            yield Result(f"`trainwire {name}`", told, *(("80%", share >= 0.8) if name == "verify" else ()))


def commands(run: Path) -> dict[str, Callable[[], object]]:
    """What is measured, without the start of a process."""
    return {
        "verify": lambda: verify(str(run)),
        "export --format csv": lambda: export(str(run), output=run.with_suffix(".csv")),
        "export --format jsonl": lambda: export(str(run), output=run.with_suffix(".jsonl")),
        "export --format parquet": lambda: export(str(run), output=run.with_suffix(".parquet")),
    }


def seconds(work: Callable[[], object]) -> float:
    """How long it takes; what it prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()), as_in_a_sink():
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun


def decode(run: Path) -> None:
    """Make typed events of everything in the journal."""
    reader = JournalReader(list_attempts(run, 0)[0].folder)
    with contextlib.closing(reader):
        while batches := reader.read(final=True):
            for batch in batches:
                _ = batch.events
