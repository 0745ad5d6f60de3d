from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from trainwire_protocol.errors import OutputChangedError
from trainwire_sinks.runtime.output import SeriesOutput


async def _write_series(output: SeriesOutput) -> list[int]:
    """Three files; returns the length after each."""
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


def test_a_series_counts_all_its_files(tmp_path: Path) -> None:
    """The length of a series is that of all its files, whose names sort as they were made."""
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
def test_a_series_is_brought_back_to_any_length(tmp_path: Path, length: int, contents: list[bytes]) -> None:
    """The file in which the length falls is truncated, and later ones are removed."""

    async def bring_back() -> int:
        await _write_series(SeriesOutput(tmp_path, "part-{}.bin"))
        output = SeriesOutput(tmp_path, "part-{}.bin")
        await output.open(length)
        await output.close()
        return output.length

    assert asyncio.run(bring_back()) == length
    assert _contents(tmp_path) == contents


def test_a_series_goes_on_where_it_was_brought_back_to(tmp_path: Path) -> None:
    """Writing after bringing back appends to the file in which the length fell."""

    async def go_on() -> None:
        await _write_series(SeriesOutput(tmp_path, "part-{}.bin"))
        output = SeriesOutput(tmp_path, "part-{}.bin")
        await output.open(6)
        await output.write(b"x")
        await output.begin_next()
        await output.write(b"y")
        await output.flush()
        await output.close()

    asyncio.run(go_on())
    assert _contents(tmp_path) == [b"0000", b"11x", b"y"]


def test_a_series_that_misses_a_file_is_not_continued(tmp_path: Path) -> None:
    """A file of the series that is gone makes it too short."""
    asyncio.run(_write_series(SeriesOutput(tmp_path, "part-{}.bin")))
    (tmp_path / "part-0000000001.bin").unlink()
    with pytest.raises(OutputChangedError, match="should hold 12"):
        asyncio.run(SeriesOutput(tmp_path, "part-{}.bin").open(12))


def test_what_a_series_holds_can_be_repeated(tmp_path: Path) -> None:
    """At the end of the last file, whichever file it stands in, and in pieces; what is gone is an error."""

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
