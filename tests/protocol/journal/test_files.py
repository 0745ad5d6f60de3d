"""Small files: atomic writes, reading JSON, and file access on another thread."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainwire_protocol.journal.files import (
    create_atomically,
    read_json_map,
    remove_unfinished,
    run_in_background,
    write_atomically,
)


def test_a_file_is_written_with_its_mode(tmp_path: Path) -> None:
    """The file has the contents and mode given, and no temporary file remains."""
    path = tmp_path / "file"
    write_atomically(path, b"one", mode=0o600)
    write_atomically(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.iterdir()] == [path]


def test_a_reader_sees_the_old_contents_or_the_new(tmp_path: Path) -> None:
    """While a file is rewritten, a reader never finds it missing or incomplete."""
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(2)]
    write_atomically(path, contents[0])
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            write_atomically(path, contents[number % 2])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert path.read_bytes() in contents
    thread.join()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file cannot be replaced, the old contents remain and the temporary file is removed."""
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_the_temporary_files_of_killed_writers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the temporary files of this path are removed."""
    path = tmp_path / "loss[1].tsv"
    others = [tmp_path / name for name in (path.name, ".loss[1].tsv.bak", ".loss1.tsv.0123abcd", ".loss.tsv.0123abcd")]
    for other in others:
        other.write_bytes(b"kept")

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", end)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert len([*tmp_path.iterdir()]) == len(others) + 1
    remove_unfinished(path)
    assert sorted(tmp_path.iterdir()) == sorted(others)
    remove_unfinished(tmp_path / "missing" / "file")


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    """Writing into a missing folder raises the system's error."""
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", b"")


def test_exactly_one_of_several_writers_creates_a_file(tmp_path: Path) -> None:
    """Of threads that create a file at once, one gets True, and the file has its contents."""
    path = tmp_path / "file"
    barrier = threading.Barrier(8)
    created: list[bytes] = []

    def create(content: bytes) -> None:
        barrier.wait()
        if create_atomically(path, content):
            created.append(content)

    threads = [threading.Thread(target=create, args=(b"%d" % number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes()] == created
    assert [*tmp_path.iterdir()] == [path]


def test_a_json_map_is_read(tmp_path: Path) -> None:
    """The map in a file is returned; a file up to the limit is read, a longer one is not JSON."""
    path = tmp_path / "file.json"
    path.write_text('{"a": [1]}')
    assert read_json_map(path) == read_json_map(path, limit=10) == {"a": [1]}
    with pytest.raises(ValueError, match="not JSON"):
        read_json_map(path, limit=9)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 20_000, b"9" * 5000, b"[]", b"1", b"null"])
def test_anything_else_is_a_value_error(tmp_path: Path, data: bytes) -> None:
    """A file that contains no JSON object is rejected with a ValueError, whatever its bytes are."""
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="it is not"):
        read_json_map(path)


def test_results_and_errors_come_back() -> None:
    """The result of the function is returned, and its exception is raised."""

    async def main() -> None:
        assert await run_in_background(max, 1, 2) == 2
        with pytest.raises(ZeroDivisionError):
            await run_in_background(divmod, 1, 0)

    asyncio.run(main())


def test_the_loop_continues_while_the_function_runs() -> None:
    """The function runs on another thread, so that the loop is free while it waits."""

    async def main() -> None:
        released = threading.Event()
        thread = asyncio.ensure_future(run_in_background(lambda: released.wait(20) and threading.current_thread()))
        await asyncio.sleep(0)
        released.set()
        assert await thread is not threading.current_thread()

    asyncio.run(main())


def test_a_function_that_hangs_delays_neither_loop_nor_exit() -> None:
    """While a function never returns, the loop and the process end without an error."""
    program = (
        "import asyncio, threading\n"
        "from trainwire_protocol.journal.files import run_in_background\n"
        "async def main():\n"
        "    try:\n"
        "        async with asyncio.timeout(0.05):\n"
        "            await run_in_background(threading.Event().wait)\n"
        "    except TimeoutError:\n"
        "        print('went on')\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert (ended.stdout, ended.stderr) == ("went on\n", "")


def test_the_result_of_a_cancelled_call_is_dropped() -> None:
    """A function may return after its caller was cancelled and the loop was closed."""
    released, returned = threading.Event(), threading.Event()

    def work() -> None:
        released.wait(20)
        returned.set()

    async def main() -> None:
        waiting = asyncio.ensure_future(run_in_background(work))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(main())
    released.set()
    assert returned.wait(20)
