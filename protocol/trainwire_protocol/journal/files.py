"""Small files: atomic writes, reading JSON, and file access on a background thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import threading
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a temporary file and rename it to `path`, so that a reader sees either the old contents or the new ones.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` is unchanged.
    """
    temporary = _write_temporary(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def create_atomically(path: Path, data: bytes, mode: int = 0o644) -> bool:
    """Write `path` unless it exists, and return whether this call wrote it.

    If several processes try at once, exactly one succeeds. A hard link decides: unlike an exclusive open, it is atomic
    on old versions of NFS too.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    temporary = _write_temporary(path, data, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def remove_unfinished(path: Path) -> None:
    """Remove temporary files that killed processes left while writing `path`.

    Call this only in a process that is the only writer of `path`.
    """
    for temporary in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 8}"):
        with contextlib.suppress(OSError):
            temporary.unlink()


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def read_json_map(path: Path, limit: int = 64 << 10) -> dict[str, Any]:
    """Read a file that contains a JSON object of at most `limit` bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it contains anything else; the message refers to the file as "it".
    """
    with path.open("rb") as file:
        data = file.read(limit)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    return fields


async def run_in_background(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function on a new daemon thread and return its result.

    Unlike a thread of `asyncio.to_thread`, this one prevents neither the event loop nor the process from ending, so
    a hanging disk does not delay the end of a training.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: Exception | None) -> None:
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
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=work, name="trainwire-files", daemon=True).start()
    return await done
