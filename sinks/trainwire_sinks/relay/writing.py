"""One thread for what all copies have to do on the disk: what came meanwhile is done together, in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from trainwire_protocol.background import run_in_background

GATHER_SECONDS: Final = 0.02
"""How long work gathers before it is done together."""

Work: TypeAlias = tuple[Callable[[], None], "asyncio.Future[None]"]


class Writer:
    """Does what it is given on another thread, a thread's turn for all of it and not for each."""

    def __init__(self) -> None:
        """Begin, on the running loop."""
        self._waiting: list[Work] = []
        self._has_work = asyncio.Event()
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

    async def _work(self) -> None:
        while True:
            await self._has_work.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._has_work.clear()
            taken, self._waiting = self._waiting, []
            for (_, done), problem in zip(taken, await run_in_background(_do_all, taken), strict=True):
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
