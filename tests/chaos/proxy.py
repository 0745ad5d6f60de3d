"""A TCP proxy that can cut, delay and split what it forwards."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading


class Proxy:
    """Forwards connections from a free port to a target, on its own thread."""

    def __init__(self, seed: int) -> None:
        self.target: tuple[str, int] | None = None
        """Host and port to which new connections are forwarded; None refuses them."""
        self.delay = 0.0
        """Delay in seconds of everything that is forwarded."""
        self.is_cut = False
        """Whether nothing is forwarded while connections stay open."""
        self.port = 0
        self.lost_connections = 0
        """How many connections, counted from the first, forward nothing more although they stay open."""
        self.accepted = 0
        """How many connections were forwarded to the target."""
        self.forwarded: list[bytearray] = []
        """The bytes forwarded in each direction of each connection, if `is_recording`."""
        self.is_recording = False
        self._random = random.Random(seed)
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()

    def drop(self) -> None:
        """Close every open connection."""
        self._loop.call_soon_threadsafe(self._close_all)

    def close(self) -> None:
        """Stop the proxy."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, started: threading.Event) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        self._close_all()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _close_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.target is None:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        number, self.accepted = self.accepted, self.accepted + 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._forward(reader, far_writer, number), self._forward(far_reader, writer, number))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        forwarded = bytearray()
        self.forwarded.append(forwarded)
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(self._random.choice([1, 7, 1000, 65536])):
                if self.is_recording:
                    forwarded += data
                await asyncio.sleep(self.delay)
                while self.is_cut or number < self.lost_connections:
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._writers.discard(writer)
