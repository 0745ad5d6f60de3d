"""Files that are either whole or not there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import TypeVar


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` beside `path` and rename it into place, so that a reader sees the old file or the new one.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` is then unchanged.
    """
    aside = _write_aside(path, data, mode)
    try:
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def create_atomically(path: Path, data: bytes, mode: int = 0o644) -> bool:
    """Write `data` to `path` unless it is there already; of several processes that try, one gets True.

    A hard link decides, which holds on NFS too, where an exclusive open once did not.
    """
    aside = _write_aside(path, data, mode)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def remove_unfinished(path: Path) -> None:
    """Remove what those left beside `path` who were killed while they wrote it; for who alone writes it now."""
    for aside in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 8}"):
        with contextlib.suppress(OSError):
            aside.unlink()


def _write_aside(path: Path, data: bytes, mode: int) -> Path:
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return aside


_Result = TypeVar("_Result")


async def run_in_background(function: Callable[..., _Result], *arguments: object) -> _Result:
    """Call a function on a thread of its own, and wait for what it returns.

    Unlike those of `asyncio.to_thread`, the thread keeps neither the loop nor the process from ending, so that a disk
    that hangs does not hold up the end of a training.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def settle(result: _Result | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error there is a result

    def work() -> None:
        result, problem = None, None
        try:
            result = function(*arguments)
        except Exception as error:
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=work, name="trainwire-files", daemon=True).start()
    return await done
