from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.third_party import install

from trainwire_protocol.environment import sink_names
from trainwire_protocol.errors import MissingExtraError, SinkLoadError, UsageError
from trainwire_sinks import Sink
from trainwire_sinks.builtin.loss_file import LossFile
from trainwire_sinks.runtime.registry import describe_sink, find_sink, summary

THIRD_PARTY = '''
from trainwire_sinks import AppendSink

class Jokes(AppendSink):
    """Writes a joke for each event."""
    name = "jokes"
    file_name = "jokes.txt"

class NoSink:
    pass
'''


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a package that registers a sink, a class that is not a sink, and a module that does not exist."""
    module = "jokes_of_a_third_party"
    entries = {"jokes": f"{module}:Jokes", "none": f"{module}:NoSink", "broken": "no_such_module_here:Sink"}
    install(monkeypatch, tmp_path, "jokes", THIRD_PARTY, "trainwire.sinks", entries)


def test_the_built_in_sinks_are_listed() -> None:
    """Each module of `trainwire_sinks.builtin` is listed as a sink."""
    assert {"log-file", "loss-file", "tensorboard"} <= set(sink_names())


@pytest.mark.parametrize("name", sink_names())
def test_a_sink_is_named_like_its_module(name: str) -> None:
    """The name on the command line is the `name` of the class, which has a line of help."""
    sink = find_sink(name)
    assert sink.name == name
    assert summary(sink).endswith(".")


def test_a_sink_is_found_by_name() -> None:
    """A built-in sink is the class that its module defines."""
    assert find_sink("loss-file") is LossFile


def test_an_unknown_name_lists_all_sinks() -> None:
    """A misspelled name raises an error that suggests the closest name and lists all others."""
    with pytest.raises(UsageError, match=r"no sink 'lossfile': did you mean loss-file\?.* log-file, loss-file"):
        find_sink("lossfile")


def test_a_sink_whose_packages_are_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install, and the sink is still listed."""
    monkeypatch.setattr(LossFile, "packages", ("no_such_package",))
    monkeypatch.setattr(LossFile, "extra", "tensorboard")
    with pytest.raises(MissingExtraError, match=r"loss-file needs no_such_package: pip install 'trainwire\[tensorb"):
        find_sink("loss-file")
    assert describe_sink("loss-file").startswith("not usable: ")


def test_listing_imports_nothing_heavy() -> None:
    """Listing the names and help of all sinks imports neither TensorBoard nor torch."""
    code = (
        "import sys; from trainwire_sinks.runtime.registry import *; [describe_sink(name) for name in sink_names()];"
        "print([name for name in ('torch', 'tensorboard', 'numpy', 'google_crc32c') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.usefixtures("third_party")
def test_a_third_party_sink_is_found() -> None:
    """A sink that another package registers is listed, described and found like a built-in one."""
    assert "jokes" in sink_names()
    assert issubclass(find_sink("jokes"), Sink)
    assert describe_sink("jokes") == "Writes a joke for each event."


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(("name", "reason"), [("none", "not a subclass"), ("broken", "No module named")])
def test_a_broken_third_party_sink_raises_the_reason(name: str, reason: str) -> None:
    """A sink that cannot be loaded raises an error with the reason, and its description states it."""
    with pytest.raises(SinkLoadError, match=reason):
        find_sink(name)
    assert reason in describe_sink(name)


def test_a_sink_is_found_by_module_and_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that is not registered is given as `module:Class`; the module may be in the working directory."""
    (tmp_path / "jokes_in_a_file.py").write_text(THIRD_PARTY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert find_sink("jokes_in_a_file:Jokes").name == "jokes"
    for name, reason in (("jokes_in_a_file:Joke", "no attribute"), ("jokes_in_none:Joke", "No module named")):
        with pytest.raises(SinkLoadError, match=reason):
            find_sink(name)
