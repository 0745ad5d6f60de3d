"""Log messages as events, with one bus or with several."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Iterator
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path

import pytest
from support.run_reader import read_events

from trainwire import EventBus, open_bus


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger whose handlers are removed after the test."""
    logger = logging.getLogger("test.logging.child")
    logger.setLevel(logging.INFO)
    yield logger
    for each in (logger, logger.parent):
        assert each is not None
        for handler in each.handlers[:]:
            each.removeHandler(handler)


def messages(folder: Path) -> list[str]:
    return [event.value["message"] for event in read_events(folder) if event.type == "log"]


def in_thread(function: object, *arguments: object) -> None:
    thread = threading.Thread(target=function, args=arguments)  # type: ignore[arg-type]  # a function
    thread.start()
    thread.join(20)


def test_each_thread_has_its_own_log(tmp_path: Path, logger: logging.Logger) -> None:
    """Two threads that open a bus each and log to one logger at the same time do not read each other's messages."""
    together = threading.Barrier(2, timeout=20)

    def work(name: str) -> None:
        with open_bus(tmp_path / name) as bus:
            logger.addHandler(bus.logging_handler())
            for number in range(20):
                together.wait()
                logger.info("%s %d", name, number)
            together.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for name in "ab":
        assert messages(tmp_path / name) == [f"{name} {number}" for number in range(20)]


def test_each_task_has_its_own_log(tmp_path: Path, logger: logging.Logger) -> None:
    """The same holds for tasks of one event loop."""

    async def work(name: str) -> None:
        with open_bus(tmp_path / name) as bus:
            logger.addHandler(bus.logging_handler())
            for number in range(5):
                logger.info("%s %d", name, number)
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(both())
    for name in "ab":
        assert messages(tmp_path / name) == [f"{name} {number}" for number in range(5)]


def test_the_innermost_bus_that_listens_records(tmp_path: Path, logger: logging.Logger) -> None:
    """A bus that is opened inside another one takes over the loggers to which it has added a handler."""
    with open_bus(tmp_path / "outer") as outer:
        logger.addHandler(outer.logging_handler())
        logger.info("before")
        with open_bus(tmp_path / "inner") as inner:
            logger.info("not listening")
            handler = inner.logging_handler()
            logger.addHandler(handler)
            logger.info("within")
        logger.info("after")
    assert messages(tmp_path / "inner") == ["within"]
    assert messages(tmp_path / "outer") == ["before", "not listening", "after"]


def test_a_thread_without_a_bus_is_recorded_once(tmp_path: Path, logger: logging.Logger) -> None:
    """By the handler that was added first, even if a closed bus has left one."""
    with open_bus(tmp_path / "old") as old:
        logger.addHandler(old.logging_handler())
    with open_bus(tmp_path / "a") as first, open_bus(tmp_path / "b") as second:
        logger.addHandler(first.logging_handler())
        logger.addHandler(second.logging_handler())
        in_thread(logger.info, "from a thread")
    assert [messages(tmp_path / name) for name in ("old", "a", "b")] == [[], ["from a thread"], []]


def test_a_message_is_recorded_once_by_a_bus(tmp_path: Path, logger: logging.Logger) -> None:
    """Even if the bus has handlers at a logger and at its parent, as after a call of `logging_handler` too many."""
    with open_bus(tmp_path) as bus:
        logger.addHandler(bus.logging_handler())
        assert logger.parent is not None
        logger.parent.addHandler(bus.logging_handler())
        logger.warning("once")
    assert messages(tmp_path) == ["once"]


def test_messages_that_arrive_through_a_queue_are_recorded(tmp_path: Path, logger: logging.Logger) -> None:
    """A listener calls the handler in a thread of its own."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue()
    with open_bus(tmp_path) as bus:
        logger.addHandler(QueueHandler(waiting))
        listener = QueueListener(waiting, bus.logging_handler())
        listener.start()
        logger.info("queued")
        listener.stop()
    assert messages(tmp_path) == ["queued"]


def test_the_threads_of_a_bus_belong_to_it(tmp_path: Path, logger: logging.Logger) -> None:
    """What a watcher logs is recorded by the bus that it watches."""
    done = threading.Event()

    def watched(bus: EventBus, word: str) -> None:
        async def watch(event: object) -> None:
            if not done.is_set():
                done.set()
                logger.info(word)

        bus.watch(watch)

    with open_bus(tmp_path / "a") as first:
        logger.addHandler(first.logging_handler())
        with open_bus(tmp_path / "b") as second:
            logger.addHandler(second.logging_handler())
            watched(second, "seen")
            second.log({"loss": 1.0}, step=1)
            assert done.wait(20)
    assert [messages(tmp_path / name) for name in "ab"] == [[], ["seen"]]
