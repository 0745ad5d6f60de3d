"""An HTTP server for a sink. It accepts connections on the event loop and answers each request in a separate thread."""

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
"""Longest time to wait for a client to send its request or to receive the answer, in seconds."""


class HttpEndpoint:
    """Serves a WSGI application until it is closed. Create it on the event loop's thread.

    Raises:
        OSError: the address is in use, or does not belong to this host.
    """

    def __init__(self, host: str, port: int, application: WSGIApplication) -> None:
        self._loop = asyncio.get_running_loop()
        self._answered = asyncio.Event()
        self.generation = 0
        """Number of calls of `wait_for_reader`. It waits only for requests of its own generation."""
        self._server = _Server(host, port, self)
        self._server.set_app(application)
        self._loop.add_reader(self._server.fileno(), self._server.handle_request)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """The address that clients connect to."""
        host = str(self._server.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def was_read(self) -> bool:
        """Whether a client has received an answer."""
        return self._answered.is_set()

    async def wait_for_reader(self, seconds: float) -> None:
        """Wait until a client receives the answer to a new request; return at once if no client has read anything."""
        if self.was_read:
            self.generation += 1
            self._answered.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), seconds)

    def close(self) -> None:
        """Stop listening; requests in progress are answered."""
        self._loop.remove_reader(self._server.fileno())
        self._server.server_close()

    def report_answer(self, generation: int) -> None:
        """Report, on a request's thread, an answer to a request of this generation."""
        if generation == self.generation:
            # The loop may be closed already.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._answered.set)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, endpoint: HttpEndpoint) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.endpoint = endpoint
        super().__init__((host, port), _Handler)
        # The client may have disconnected before it is accepted.
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which the base class does and which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS
    server: _Server

    def handle(self) -> None:
        generation = self.server.endpoint.generation
        super().handle()
        self.server.endpoint.report_answer(generation)

    def get_stderr(self) -> TextIO:
        return io.StringIO()

    def log_message(self, format: str, *_: object) -> None:
        """Log nothing: requests are not worth a line on standard error."""
