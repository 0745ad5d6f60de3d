"""Work on files, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

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
