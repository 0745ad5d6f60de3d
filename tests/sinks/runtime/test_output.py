from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainwire_protocol.errors import OutputChangedError
from trainwire_sinks import Event, Sink
from trainwire_sinks.runtime.output import BUFFER_BYTES, AppendOutput, ReplaceOutput, SeriesOutput
from trainwire_sinks.runtime.sink import rank_folder
from trainwire_sinks.testing.check_sink import check_sink


def test_an_append_output_creates_its_folder_and_an_empty_file(tmp_path: Path) -> None:
    """Opening an append output at length 0 creates its folder and an empty file."""

    async def begin() -> None:
        output = AppendOutput(tmp_path / "a" / "b.txt")
        await output.open(0)
        await output.close()

    asyncio.run(begin())
    assert (tmp_path / "a" / "b.txt").read_bytes() == b""


def test_an_append_output_is_truncated_to_the_committed_length(tmp_path: Path) -> None:
    """Bytes past the committed length are removed, and writing continues there."""
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
def test_an_output_that_is_missing_or_too_short_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """An output that is shorter than committed, or missing, raises an error with both lengths."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    for output in (AppendOutput(path), ReplaceOutput(path)):
        with pytest.raises(OutputChangedError, match=r"has [05] bytes and should have 6"):
            asyncio.run(output.open(6))


def test_an_append_output_drops_unflushed_data(tmp_path: Path) -> None:
    """Closing without a flush leaves the file unchanged."""

    async def write() -> None:
        output = AppendOutput(tmp_path / "file")
        await output.open(0)
        await output.write("lost")
        await output.close()

    asyncio.run(write())
    assert (tmp_path / "file").read_bytes() == b""


def test_an_append_output_buffers_a_bounded_amount(tmp_path: Path) -> None:
    """Once its buffer is full, it writes without a flush."""

    async def write() -> int:
        output = AppendOutput(tmp_path / "file")
        await output.open(0)
        await output.write(b"x" * BUFFER_BYTES)
        size = (tmp_path / "file").stat().st_size
        await output.close()
        return size

    assert asyncio.run(write()) == BUFFER_BYTES


def test_a_replace_output_replaces_the_whole_file(tmp_path: Path) -> None:
    """Replacing leaves the new content and its length, and no other file."""

    async def write() -> tuple[int, bytes]:
        output = ReplaceOutput(tmp_path / "file")
        await output.open(0)
        assert await output.read() == b""
        await output.replace("first, and long")
        await output.replace("sécond")
        return output.length, await output.read()

    assert asyncio.run(write()) == (7, "sécond".encode())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_replace_output_opened_at_0_removes_an_older_file(tmp_path: Path) -> None:
    """Opening a replace output at length 0 removes the file."""
    (tmp_path / "file").write_text("old")
    asyncio.run(ReplaceOutput(tmp_path / "file").open(0))
    assert not (tmp_path / "file").exists()


async def _write_series(output: SeriesOutput) -> list[int]:
    """Write three files; return the length after each."""
    lengths = []
    await output.open(0)
    for number in range(3):
        if number:
            await output.begin_next()
        await output.write(str(number).encode() * 4)
        lengths.append(output.length)
    await output.flush()
    await output.close()
    return lengths


def _contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_the_length_of_a_series_is_that_of_all_files(tmp_path: Path) -> None:
    """The length of a series is the sum of its files, whose names sort in the order written."""
    output = SeriesOutput(tmp_path, "part-{}.bin")
    assert asyncio.run(_write_series(output)) == [4, 8, 12]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"part-{n:010d}.bin" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("length", "contents"),
    [
        (0, []),
        (3, [b"000"]),
        (4, [b"0000"]),
        (5, [b"0000", b"1"]),
        (8, [b"0000", b"1111"]),
        (12, [b"0000", b"1111", b"2222"]),
    ],
)
def test_a_series_can_be_restored_to_any_length(tmp_path: Path, length: int, contents: list[bytes]) -> None:
    """The file that contains the position is truncated, and later ones are removed."""

    async def restore() -> int:
        await _write_series(SeriesOutput(tmp_path, "part-{}.bin"))
        output = SeriesOutput(tmp_path, "part-{}.bin")
        await output.open(length)
        await output.close()
        return output.length

    assert asyncio.run(restore()) == length
    assert _contents(tmp_path) == contents


def test_a_restored_series_can_be_continued(tmp_path: Path) -> None:
    """Writing after a restore appends to the file that contains the position."""

    async def write_more() -> None:
        await _write_series(SeriesOutput(tmp_path, "part-{}.bin"))
        output = SeriesOutput(tmp_path, "part-{}.bin")
        await output.open(6)
        await output.write(b"x")
        await output.begin_next()
        await output.write(b"y")
        await output.flush()
        await output.close()

    asyncio.run(write_more())
    assert _contents(tmp_path) == [b"0000", b"11x", b"y"]


def test_a_series_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A series without one of its files is too short."""
    asyncio.run(_write_series(SeriesOutput(tmp_path, "part-{}.bin")))
    (tmp_path / "part-0000000001.bin").unlink()
    with pytest.raises(OutputChangedError, match="should have 12"):
        asyncio.run(SeriesOutput(tmp_path, "part-{}.bin").open(12))


def test_a_range_of_a_series_can_be_repeated(tmp_path: Path) -> None:
    """Bytes of any earlier file are appended to the last one; missing bytes raise an error."""

    async def repeat() -> None:
        output = SeriesOutput(tmp_path, "part-{}.bin")
        await _write_series(output)
        await output.open(12)
        for begin, end in ((0, 4), (5, 7), (8, 8)):
            await output.repeat(begin, end)
        await output.flush()
        with pytest.raises(OutputChangedError):
            await output.repeat(6, 9)
        await output.close()

    asyncio.run(repeat())
    assert _contents(tmp_path) == [b"0000", b"1111", b"2222000011"]


class Parts(Sink):
    """Writes the names of events, in a new file after each epoch, and removes what is superseded."""

    name = "parts"
    output: SeriesOutput

    def make_output(self, folder: Path, rank: int) -> SeriesOutput:
        return SeriesOutput(rank_folder(folder, rank) / "parts", "part-{}.txt")

    async def handle(self, events: Sequence[Event]) -> None:
        for event in events:
            await self.output.write(f"{event.name}\n".encode())
            if event.name == "epoch/finished":
                await self.output.begin_next()


def test_a_series_is_kept_aside(tmp_path: Path) -> None:
    """The files of earlier starts are in folders of their own, wherever the sink is killed."""
    check_sink(Parts, tmp_path)
    folders = sorted(path.name for path in (tmp_path / "whole" / "parts").iterdir() if path.is_dir())
    assert folders == ["attempt-1", "attempt-3"]
    for folder, count in (("attempt-1", 4), ("attempt-3", 3), (".", 3)):
        assert len(list((tmp_path / "whole" / "parts" / folder).glob("part-*"))) == count


@pytest.mark.parametrize("make", [AppendOutput, ReplaceOutput])
def test_a_file_is_kept_aside_once(tmp_path: Path, make: type[AppendOutput | ReplaceOutput]) -> None:
    """A second rename, as after a crash, does nothing; the suffix stays."""

    async def keep() -> None:
        output = make(tmp_path / "a.b.tsv")
        await output.keep_aside(3)
        await output.keep_aside(3)

    (tmp_path / "a.b.tsv").write_text("rows")
    asyncio.run(keep())
    assert [path.name for path in tmp_path.iterdir()] == ["a.b.attempt-3.tsv"]
    assert (tmp_path / "a.b.attempt-3.tsv").read_text() == "rows"
