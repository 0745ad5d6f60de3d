from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.errors import CursorFileError
from trainwire_protocol.wire import Cursor
from trainwire_sinks.runtime.cursor import Commit, CursorFile, Savepoint


@pytest.fixture
def file(tmp_path: Path) -> CursorFile:
    (tmp_path / ".trainwire").mkdir()
    return CursorFile(tmp_path, "loss-file", 2)


def test_a_commit_is_loaded_as_it_was_saved(file: CursorFile) -> None:
    """Saving and loading gives the same commit, marks and state included."""
    mark = Savepoint(Cursor(0, 5), 10, {"count": 1})
    commit = Commit("run", Savepoint(Cursor(1, 7), 20, {"open": {"a/b": "1\n"}}), (mark,))
    file.save(commit)
    assert file.load() == commit


def test_the_cursor_file_has_these_fields(file: CursorFile, tmp_path: Path) -> None:
    """The file is named for the sink and its rank, and holds the commit's fields as JSON."""
    file.save(Commit("run", Savepoint(Cursor(1, 7), 20, {})))
    fields = json.loads((tmp_path / ".trainwire" / "loss-file-rank2.cursor").read_text())
    position = {"run": "run", "rank": 2, "attempt": 1, "seq": 7}
    assert fields == {**position, "length": 20, "state": {}, "marks": [], "start": 0, "ended": None}


def test_a_missing_file_is_no_commit(file: CursorFile) -> None:
    """Loading returns None if the sink never committed."""
    assert file.load() is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b"7", b"null", b'{"run": 1}', b'{"run": null, "attempt": "0", "seq": 1, "length": 0}'],
)
def test_a_file_without_a_cursor_raises(file: CursorFile, content: bytes) -> None:
    """Any other content raises an error that names the file."""
    file.path.write_bytes(content)
    with pytest.raises(CursorFileError, match="loss-file-rank2"):
        file.load()


@given(
    content=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["run", "attempt", "seq", "length", "state", "marks"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_content_raises_another_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever the file contains, loading returns a commit or raises CursorFileError."""
    folder = tmp_path_factory.mktemp("cursor")
    file = CursorFile(folder, "a", 0)
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    with contextlib.suppress(CursorFileError):
        assert isinstance(file.load(), Commit)
