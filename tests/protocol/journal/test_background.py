"""Work off the event loop that can hold nothing up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from trainwire_protocol.journal.files import run_in_background


def test_results_and_errors_come_back() -> None:
    """What the function returns is returned, and what it raises is raised."""

    async def main() -> None:
        assert await run_in_background(max, 1, 2) == 2
        with pytest.raises(ZeroDivisionError):
            await run_in_background(divmod, 1, 0)

    asyncio.run(main())


def test_it_runs_on_another_thread_while_the_loop_goes_on() -> None:
    """The loop does other things while the function waits."""

    async def main() -> None:
        released = threading.Event()
        thread = asyncio.ensure_future(run_in_background(lambda: released.wait(20) and threading.current_thread()))
        await asyncio.sleep(0)
        released.set()
        assert await thread is not threading.current_thread()

    asyncio.run(main())


def test_a_function_that_hangs_holds_up_neither_loop_nor_exit() -> None:
    """With a function that never returns, the loop and the process end all the same, without a word."""
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


def test_a_result_that_nobody_waits_for_is_dropped() -> None:
    """A function that returns after its caller was cancelled, or after the loop, does no harm."""
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
