"""An HTTP server beside a sink's event loop: it accepts there, and answers each request in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Final, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

REQUEST_SECONDS: Final = 5.0
"""Longest time that a client may be silent in the middle of its request, or may not take the answer."""


class HttpEndpoint:
    """Answers by a WSGI application, from its making until it is closed. Make it on the event loop's thread.

    Raises:
        OSError: the address is taken, or none of this host's.
    """

    def __init__(self, host: str, port: int, application: WSGIApplication) -> None:
        self._loop = asyncio.get_running_loop()
        self._read = asyncio.Event()
        self.era = 0
        """Counts the times that a reader was waited for: what was asked for before is no sign of one after."""
        self._server = _Server(host, port, self)
        self._server.set_app(application)
        self._loop.add_reader(self._server.fileno(), self._server.handle_request)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """Where it is to be found."""
        host = str(self._server.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def was_read(self) -> bool:
        """If somebody has read what is served."""
        return self._read.is_set()

    async def wait_for_reader(self, seconds: float) -> None:
        """Wait until somebody has read what is served from now on; not at all if nobody has read anything so far."""
        if self.was_read:
            self.era += 1
            self._read.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._read.wait(), seconds)

    def close(self) -> None:
        """Stop listening; requests that were begun are answered."""
        self._loop.remove_reader(self._server.fileno())
        self._server.server_close()

    def note_reader(self, era: int) -> None:
        """Note, from a request's thread, that an answer went out to a request that came in an era."""
        if era == self.era:
            # The loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._read.set)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, endpoint: HttpEndpoint) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.endpoint = endpoint
        super().__init__((host, port), _Handler)
        # A client may be gone again when it is accepted.
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        """Bind, without asking for this host's name as the base class does: that may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off is no matter of ours."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS
    server: _Server

    def handle(self) -> None:
        era = self.server.endpoint.era
        super().handle()
        self.server.endpoint.note_reader(era)

    def get_stderr(self) -> TextIO:
        return io.StringIO()

    def log_message(self, format: str, *_: object) -> None:
        """Standard error is for what its reader can do something about."""
