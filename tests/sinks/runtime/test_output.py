from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from trainwire_protocol.errors import OutputChangedError
from trainwire_sinks.runtime.output import BUFFER_BYTES, AppendOutput, ReplaceOutput


def test_an_append_output_makes_its_folder_and_an_empty_file(tmp_path: Path) -> None:
    """Opening an append output at 0 makes its folder and an empty file."""

    async def begin() -> None:
        output = AppendOutput(tmp_path / "a" / "b.txt")
        await output.open(0)
        await output.close()

    asyncio.run(begin())
    assert (tmp_path / "a" / "b.txt").read_bytes() == b""


def test_an_append_output_is_truncated_to_what_was_committed(tmp_path: Path) -> None:
    """What is behind the committed length is cut off, and writing goes on there."""
    path = tmp_path / "file"
    path.write_text("committed, torn")

    async def write() -> int:
        output = AppendOutput(path)
        await output.open(len("committed"))
        await output.write(" ünd more")
        await output.flush()
        await output.close()
        return output.length

    length = asyncio.run(write())
    assert path.read_text() == "committed ünd more"
    assert length == path.stat().st_size


@pytest.mark.parametrize("content", [None, b"short"])
def test_an_output_that_is_gone_or_shorter_is_not_continued(tmp_path: Path, content: bytes | None) -> None:
    """An output that is shorter than was committed, or gone, is an error that says both lengths."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    for output in (AppendOutput(path), ReplaceOutput(path)):
        with pytest.raises(OutputChangedError, match=r"has [05] bytes and should have 6"):
            asyncio.run(output.open(6))


def test_an_append_output_drops_what_was_not_flushed(tmp_path: Path) -> None:
    """Closing without a flush leaves the file as it was."""

    async def write() -> None:
        output = AppendOutput(tmp_path / "file")
        await output.open(0)
        await output.write("lost")
        await output.close()

    asyncio.run(write())
    assert (tmp_path / "file").read_bytes() == b""


def test_an_append_output_holds_back_a_bounded_amount(tmp_path: Path) -> None:
    """Past the buffer's limit it writes without being told to."""

    async def write() -> int:
        output = AppendOutput(tmp_path / "file")
        await output.open(0)
        await output.write(b"x" * BUFFER_BYTES)
        size = (tmp_path / "file").stat().st_size
        await output.close()
        return size

    assert asyncio.run(write()) == BUFFER_BYTES


def test_a_replace_output_puts_the_whole_file_in_place(tmp_path: Path) -> None:
    """Replacing leaves the new content, its length and no other file."""

    async def write() -> tuple[int, bytes]:
        output = ReplaceOutput(tmp_path / "file")
        await output.open(0)
        assert await output.read() == b""
        await output.replace("first, and long")
        await output.replace("sécond")
        return output.length, await output.read()

    assert asyncio.run(write()) == (7, "sécond".encode())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_replace_output_that_begins_removes_an_older_file(tmp_path: Path) -> None:
    """Opening a replace output at 0 removes what was there."""
    (tmp_path / "file").write_text("old")
    asyncio.run(ReplaceOutput(tmp_path / "file").open(0))
    assert not (tmp_path / "file").exists()
