from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from support.ports import free_ports
from support.run_reader import wait_until

from trainwire_protocol.errors import OptionError, OutputError
from trainwire_protocol.wire import Batch
from trainwire_sinks import Event
from trainwire_sinks.builtin.prometheus import PREFIX, Options, Prometheus, Values, metric_name
from trainwire_sinks.runtime.runner import SinkRunner
from trainwire_sinks.testing.check_sink import Recording, check_sink, record, run_sink, sample_run

Live = tuple[subprocess.Popen[str], str, int]
Trainwire = Callable[..., subprocess.Popen[str]]

HOSTILE = [
    "../../etc/passwd", "a b", "a_b", "a/b", "a\nb", "a\\nb", 'a"b', "a\\", "\\", '"', "# HELP x y", "{}", "}", "a,b=c",
    "\x1b[31m", "\x00", "\r\n", "\u2028", "\x85", "损失", "_" * 512, "0", "__name__", "le", "step", "run_state", " ",
]  # fmt: skip


def scalar(name: str, value: float = 1.0) -> Event:
    return Event(name, value, "scalar", 2.0, 7)


def values_of(*events: Event, max_series: int = 1000) -> Values:
    values = Values(0, max_series)
    values.update("digits", events)
    return values


def samples(values: Values) -> list[Sample]:
    """Return the samples that prometheus-client's own parser finds in the text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(values)
    return parse(generate_latest(registry).decode())


def parse(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def series(found: Sequence[Sample]) -> dict[tuple[str, str], float]:
    """Return the metrics that the run logged, by name and item."""
    own = [sample for sample in found if sample.name.startswith(PREFIX)]
    assert all((sample.labels["run"], sample.labels["rank"]) == ("digits", "0") for sample in own)
    assert all(sample.name == metric_name(sample.labels["name"]) for sample in own)
    return {(sample.labels["name"], sample.labels["item"]): sample.value for sample in own}


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


def test_it_continues_after_a_kill(tmp_path: Path) -> None:
    """Killed at any moment and restarted, it serves the same values."""
    check_sink(lambda: Prometheus(Options(port=0)), tmp_path, record([[scalar("a")], [scalar("b")]]))


def test_the_latest_value_of_each_metric_is_served() -> None:
    """A scalar has one series, `scalars` one for each item; NaN and infinities are valid values."""
    found = samples(
        values_of(
            scalar("train/loss", 2.0), scalar("train/loss", 0.25), scalar("nan", math.nan), scalar("inf", -math.inf),
            Event("learning_rate", [0.1, 0.01], "scalars", 2.0, 7), Event("losses", {"b/c": 2}, "scalars", 2.0, 7),
            Event("note", "not a number", "text", 2.0, 7),
        )
    )  # fmt: skip
    own = series(found)
    assert math.isnan(own.pop(("nan", "")))
    assert own == {
        ("train/loss", ""): 0.25, ("inf", ""): -math.inf, ("learning_rate", "0"): 0.1, ("learning_rate", "1"): 0.01,
        ("losses", "b/c"): 2.0,
    }  # fmt: skip
    assert {sample.name: sample.value for sample in found if not sample.name.startswith(PREFIX)} == {
        "trainwire_step": 7, "trainwire_last_event_timestamp_seconds": 2.0, "trainwire_left_out": 0,
        "trainwire_run_state": 0,
    }  # fmt: skip


def test_the_state_of_the_run_is_served() -> None:
    """State and epoch follow from lifecycle events; a resumed run is running again."""

    def state(*names: str) -> list[str]:
        happened = [Event(name, {"epoch": 3}, "lifecycle", 0.0, 0) for name in names]
        found = samples(values_of(*happened))
        return [sample.labels["state"] for sample in found if sample.name == "trainwire_run_state" and sample.value]

    assert state("run/started", "epoch/started") == ["running"]
    assert state("run/started", "run/failed") == ["failed"]
    assert state("run/started", "run/interrupted", "run/resumed") == ["running"]
    epoch = samples(values_of(Event("epoch/finished", {"epoch": 3}, "lifecycle", 0.0, 0)))
    assert [sample.value for sample in epoch if sample.name == "trainwire_epoch"] == [3]


def test_hostile_names_stay_distinct() -> None:
    """Any name is preserved as a label, in both formats that Prometheus reads."""
    values = values_of(*(scalar(name, number) for number, name in enumerate(HOSTILE)))
    assert series(samples(values)) == {(name, ""): number for number, name in enumerate(HOSTILE)}
    registry = CollectorRegistry(auto_describe=False)
    registry.register(values)
    families = parse_openmetrics(generate_openmetrics(registry).decode())
    found = [sample.labels["name"] for family in families for sample in family.samples if "name" in sample.labels]
    assert sorted(found) == sorted(HOSTILE)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.floats(allow_nan=False)))
def test_any_name_is_preserved(metrics: dict[str, float]) -> None:
    """Every name that an event can have is parsed back with its value."""
    values = values_of(*(scalar(name, value) for name, value in metrics.items()))
    assert series(samples(values)) == {(name, ""): value for name, value in metrics.items()}


def test_the_number_of_series_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Further series and labels that are too long are omitted, counted and reported once; others are updated."""
    with caplog.at_level(logging.WARNING, "trainwire"):
        values = values_of(*(scalar(f"m{n}") for n in range(5)), scalar("m0", 9.0), max_series=3)
        values.update("digits", [Event("s", {"x" * 600: 1.0}, "scalars", 0.0, 0)])
    found = samples(values)
    assert series(found) == {("m0", ""): 9.0, ("m1", ""): 1.0, ("m2", ""): 1.0}
    assert [sample.value for sample in found if sample.name == "trainwire_left_out"] == [3]
    assert len(caplog.records) == 1
    assert "--max-series" in caplog.text


def test_superseded_values_are_rolled_back(tmp_path: Path) -> None:
    """After a resumption, the values are those of an uninterrupted run."""
    sinks: list[Prometheus] = []

    def make() -> Prometheus:
        sinks.append(Prometheus(Options(port=0)))
        return sinks[-1]

    run_sink(make, tmp_path, sample_run())
    state = sinks[-1].state()
    assert {name: value for name, item, value in state["series"]}["train/loss"] == 0.125
    assert state["facts"]["epoch"] == 3
    assert state["state"] == "finished"


def fetch(url: str, accept: str = "*/*") -> str:
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as response:
        return str(response.read().decode())


@pytest.fixture
def live(tmp_path: Path, write_run: Callable[..., Path], trainwire: Trainwire) -> Live:
    """Start the sink in its own process on a live run; return the process, its URL and its port."""
    folder = write_run(record([[scalar("train/loss", 0.5), scalar("a\nb\x1b", 1.0)]], run="digits"), is_over=False)
    process = trainwire("sink", "prometheus", folder, "--port", 0)
    assert process.stderr is not None
    found = re.fullmatch(r"trainwire: prometheus: (http://127\.0\.0\.1:(\d+)/metrics)\n", process.stderr.readline())
    assert found
    return process, found[1], int(found[2])


def test_it_answers_over_http(live: Live) -> None:
    """With port 0 it reports the port chosen, serves valid text there, and survives bad clients."""
    process, url, port = live
    wait_until(lambda: "train_loss" in fetch(url))
    assert series(parse(fetch(url))) == {("train/loss", ""): 0.5, ("a\nb\x1b", ""): 1.0}
    address = ("127.0.0.1", port)
    silent = socket.create_connection(address)
    for rubbish in (b"\x00\xff" * 1000 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(address) as client:
            client.sendall(rubbish)
    assert "trainwire_step" in fetch(url, accept="application/openmetrics-text; version=1.0.0")
    process.terminate()
    _, error = process.communicate(timeout=20)
    silent.close()
    assert (process.returncode, error) == (143, "")


def test_the_last_values_are_waited_for(tmp_path: Path) -> None:
    """If a client has read values, the sink waits at the end of the run until the last ones are read."""
    answers: list[str] = []
    sink = Prometheus(Options(port=0))

    async def scrape() -> None:
        with contextlib.suppress(OSError):
            while sink.output.url:
                answers.append(await asyncio.to_thread(fetch, sink.output.url))

    class Scraped(Recording):
        async def __anext__(self) -> Batch:
            try:
                return await super().__anext__()
            except StopAsyncIteration:
                self.scraping = asyncio.create_task(scrape())
                while not sink.output.was_read:
                    await asyncio.sleep(0)
                answers.clear()
                raise

    async def run(batches: Scraped) -> None:
        await SinkRunner(lambda: sink, lambda cursor, skip: batches, tmp_path).run()
        # The last answer was sent, but the client may not have received it yet.
        await batches.scraping

    batches = Scraped(record([[scalar("a"), Event("run/finished", {}, "lifecycle", 0.0, 0)]]))
    asyncio.run(asyncio.wait_for(run(batches), 20))
    assert 'state="finished"} 1.0' in answers[-1]


def test_a_port_in_use_is_reported(tmp_path: Path, free_port: int) -> None:
    """A port in use raises an error that names it, and each rank listens on its own port."""
    batches = record([[scalar("a")]])
    with socket.socket() as place:
        place.bind(("127.0.0.1", free_port))
        place.listen()
        with pytest.raises(OutputError, match=rf"cannot listen on 127.0.0.1:{free_port} .*choose another --port"):
            run_sink(lambda: Prometheus(Options(port=free_port)), tmp_path, batches)
    with pytest.raises(OutputError, match="cannot listen on no such host:9464"):
        run_sink(lambda: Prometheus(Options(host="no such host")), tmp_path, batches)
    assert Prometheus(Options(port=9464)).make_output(tmp_path, 2).port == 9466


@pytest.mark.parametrize("wrong", [{"port": -1}, {"port": 70000}, {"max_series": 0}, {"linger": math.nan}])
def test_an_invalid_option_is_reported(wrong: dict[str, float]) -> None:
    """An invalid value raises an error that names the option and its valid values."""
    option = next(iter(wrong)).replace("_", "-")
    with pytest.raises(OptionError, match=f"--{option} must be a number"):
        Options(**wrong)  # type: ignore[arg-type]  # invalid on purpose
