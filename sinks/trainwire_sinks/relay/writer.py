"""One thread for what all copies have to do on the disk: what came meanwhile is done together, in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

Work: TypeAlias = tuple[Callable[[], None], "asyncio.Future[None]"]


class Writer:
    """Does what it is given on another thread, a thread's turn for all of it and not for each."""

    def __init__(self) -> None:
        """Begin, on the running loop."""
        self._waiting: list[Work] = []
        self._has_work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "trainwire-copies")
        self._working = asyncio.ensure_future(self._work())

    def submit(self, function: Callable[[], None]) -> asyncio.Future[None]:
        """Have `function` called behind all that was submitted before; it is called even if nobody awaits that."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((function, done))
        self._has_work.set()
        return done

    async def close(self) -> None:
        """Do what is left, and end."""
        await self.submit(lambda: None)
        self._working.cancel()
        await asyncio.gather(self._working, return_exceptions=True)
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            taken, self._waiting = self._waiting, []
            problems = await loop.run_in_executor(self._thread, _do_all, taken)
            for (_, done), problem in zip(taken, problems, strict=True):
                _settle(done, problem)


def _do_all(taken: Sequence[Work]) -> list[Exception | None]:
    return [_do(function) for function, _ in taken]


def _do(function: Callable[[], None]) -> Exception | None:
    try:
        function()
    except Exception as error:
        return error
    return None


def _settle(done: asyncio.Future[None], problem: Exception | None) -> None:
    if done.cancelled():
        return
    if problem is None:
        done.set_result(None)
    else:
        done.set_exception(problem)
