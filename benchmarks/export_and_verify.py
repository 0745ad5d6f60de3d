"""The rates of `trainwire export` and `trainwire verify`, relative to decoding the journal and nothing else."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.large_run import write_run
from benchmarks.measurement import Size
from benchmarks.report import Result
from benchmarks.sinks import collecting_as_in_a_sink
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.segments import JournalReader
from trainwire_sinks.cli.export import export
from trainwire_sinks.cli.verify import verify


def export_and_verify(size: Size) -> Iterator[Result]:
    """Events per second of each command and its fraction of the decoder's rate: medians of alternating rounds."""
    events, rounds = size.of(1_000_000, 50_000), size.of(3, 1)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write_run(run, events)
        commands: dict[str, Callable[[], object]] = {
            "verify": lambda: verify(str(run)),
            "export --format csv": lambda: export(str(run), output=run.with_suffix(".csv")),
            "export --format jsonl": lambda: export(str(run), output=run.with_suffix(".jsonl")),
            "export --format parquet": lambda: export(str(run), output=run.with_suffix(".parquet")),
        }
        for name, command in commands.items():
            pairs = [(seconds_of(command), seconds_of(lambda: decode(run))) for _ in range(rounds)]
            rate = events / statistics.median(ours for ours, _ in pairs)
            fraction = statistics.median(decoding / ours for ours, decoding in pairs)
            measured = f"{rate:,.0f} events/s, {fraction:.0%} of the decoder's rate"
            budget = ("80%", fraction >= 0.8) if name == "verify" else ()
            yield Result(f"`trainwire {name}`", measured, *budget)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that the work takes; its standard output is discarded."""
    with contextlib.redirect_stdout(io.StringIO()), collecting_as_in_a_sink():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


def decode(run: Path) -> None:
    """Decode all events of the journal."""
    reader = JournalReader(list_attempts(run, 0)[0].folder)
    with contextlib.closing(reader):
        while batches := reader.read(final=True):
            for batch in batches:
                _ = batch.events
