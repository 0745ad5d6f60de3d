"""Answers the requests to a publisher: frames in, frames out, no sockets.

`docs/wire-protocol.md` specifies the requests. A `fetch` reads a slice of the journal. The most recent positions stay
open between requests, and all reads together use a small share of one processor.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

import msgpack

from trainwire_protocol.errors import ProtocolError, RefusedError, RequestError
from trainwire_protocol.journal.attempts import read_resumed_from
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.records import encode_record
from trainwire_protocol.journal.run_folder import Attempt, list_attempts
from trainwire_protocol.journal.segments import JournalReader
from trainwire_protocol.wire import VERSION, Batch, Cursor, unpack_map

MAX_CREDIT: Final = 4 << 20
"""Maximum size of a reply to `fetch`, in bytes; a single batch may exceed it."""

MAX_SCANNED_BYTES: Final = 2 << 20
"""Maximum number of bytes of the journal that one `fetch` scans for the requested channels."""

MAX_CHANNELS: Final = 16
"""Maximum number of channels in a `fetch`."""

FETCH_SHARE: Final = 0.05
"""Share of a processor's time that replies to `fetch` may take."""

LONGEST_REST_SECONDS: Final = 1.0
"""Longest pause after a `fetch`; a client that waits longer repeats its request, which costs more."""

MAX_FETCHES: Final = 4
"""Maximum number of pending `fetch` requests of one client; further ones get no reply, so that others are served."""

MAX_WAITING_FETCHES: Final = 48
"""Maximum number of pending `fetch` requests of all clients; other requests are answered meanwhile."""

MAX_FETCH_SESSIONS: Final = 16
"""Maximum number of positions in the journal that stay open between one `fetch` and the next."""

MAX_HPARAMS_BYTES: Final = 1 << 20
"""Maximum size of the hyperparameters in a reply to `hello`, in bytes; the largest ones beyond it are left out."""

ACKNOWLEDGEMENT_SECONDS: Final = 30.0
"""Time after which an acknowledgement expires, and the publisher no longer waits for the sink."""

MAX_SINKS: Final = 1000
"""Maximum number of sinks whose acknowledgements are kept."""

MAX_SINK_CHARACTERS: Final = 256
"""Maximum length of a sink's name, in characters."""

MAX_COMMANDS: Final = 1000
"""Number of past commands whose ids are kept, so that a repeated command is applied once."""


@dataclass
class FetchSession:
    """A reader's position in an attempt's journal."""

    reader: JournalReader
    ready: deque[Batch] = field(default_factory=deque)
    """Batches that were read and not yet sent."""
    scanned_to: int = -1
    """Seq up to which everything requested was sent."""

    def read(self, channels: Collection[str], credit: int) -> list[bytes]:
        """Return the next records of these channels within `credit` bytes, or a single larger one; none if it is 0."""
        records: list[bytes] = []
        scanned = 0
        while credit > 0 and scanned < MAX_SCANNED_BYTES and (self.ready or self._fill()):
            batch = self.ready.popleft()
            scanned += len(batch.body)
            if batch.header.channel in channels:
                record = encode_record(batch)
                if records and len(record) > credit:
                    self.ready.appendleft(batch)
                    break
                records.append(record)
                credit -= len(record)
            self.scanned_to = batch.cursor.seq
        return records

    def _fill(self) -> bool:
        self.ready.extend(self.reader.read())
        return bool(self.ready)


class FetchSessions:
    """The most recent sessions, by attempt, position and channels."""

    def __init__(self, attempts: Callable[[], Iterable[Attempt]]) -> None:
        """Start without sessions; `attempts` lists the attempts that can be read."""
        self._attempts = attempts
        self._sessions: OrderedDict[tuple[int, int, tuple[str, ...]], FetchSession] = OrderedDict()
        self._limit = MAX_FETCH_SESSIONS

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, number: int, after: int, channels: tuple[str, ...]) -> FetchSession:
        """Return the session of a reader that continues after seq `after` of an attempt, for the caller's use alone.

        Raises:
            RequestError: the attempt does not exist.
        """
        session = self._sessions.pop((number, after, channels), None)
        if session:
            return session
        attempt = next((attempt for attempt in self._attempts() if attempt.number == number), None)
        if attempt is None:
            raise RequestError(f"there is no attempt {number}")
        return FetchSession(JournalReader(attempt.folder, after), scanned_to=after)

    def put_back(self, number: int, channels: tuple[str, ...], session: FetchSession) -> None:
        """Keep a session for the reader's next request, in place of the least recently used one."""
        displaced = self._sessions.pop((number, session.scanned_to, channels), None)
        if displaced:
            displaced.reader.close()
        self._sessions[number, session.scanned_to, channels] = session
        self._evict()

    def close(self) -> None:
        """Close the journal's files; a session in use is closed when it is put back."""
        self._limit = 0
        self._evict()

    def _evict(self) -> None:
        while len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)[1].reader.close()


@dataclass
class Acknowledgement:
    """The position that a sink has reached."""

    cursor: Cursor
    expires: float
    """When it expires, on the monotonic clock."""


@dataclass
class Responder:
    """Answers the requests to the publisher of one attempt."""

    attempt: Attempt
    heads: Mapping[str, int]
    """For each channel, the last seq that was published on it."""
    describe: Callable[[], Mapping[str, Any]]
    """Returns the fields of `hello` that the responder does not know itself."""
    sinks: dict[str, Acknowledgement] = field(default_factory=dict)
    on_command: Callable[[str, str, Mapping[str, Any]], Awaitable[None] | None] | None = None
    """Called once for each command with its id, verb and arguments. Raises RequestError to refuse it."""
    _commands: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _sessions: FetchSessions = field(init=False)
    _resumed: dict[int, Cursor | None] = field(default_factory=dict)
    _fetching: Counter[bytes] = field(default_factory=Counter)
    """For each client, the number of its pending `fetch` requests."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _rest_until: float = 0.0

    def __post_init__(self) -> None:
        self._sessions = FetchSessions(self._attempts)

    async def answer(self, frames: list[bytes], client: bytes = b"", *, may_command: bool = True) -> list[bytes]:
        """Return the frames of the reply; for a request that is invalid or not permitted it contains an `error`.

        Returns no frames if too many `fetch` requests are pending: the client times out and repeats its request.
        """
        identifier: object = None
        try:
            request = _parse(frames)
            identifier = request.get("id")
            if request.get("verb") == "command" and not may_command:
                raise RequestError("this key is read-only and may not send commands")
            if request.get("verb") == "fetch" and self._is_crowded(client):
                return []
            head, records = await self._handle(request, client)
        except (ProtocolError, OSError) as error:
            # A relay's publisher has refused it: give its reason, without a second "the publisher refused".
            reason = error.reason if isinstance(error, RefusedError) else str(error)
            head, records = {"error": reason}, []
        return [msgpack.packb({"id": identifier, **head}), *records]

    def close(self) -> None:
        """Close the journal's files."""
        self._sessions.close()

    async def _handle(self, request: dict[str, Any], client: bytes) -> tuple[dict[str, Any], list[bytes]]:
        match request.get("verb"):
            case "hello":
                return await run_in_background(self._hello), []
            case "fetch":
                return await self._fetch_in_turn(request, client)
            case "ack":
                return self._acknowledge(request), []
            case "command":
                return await self._take_command(request), []
            case verb:
                raise RequestError(f"the verb is {verb!r:.60}; known verbs are hello, fetch, ack and command")

    def _hello(self) -> dict[str, Any]:
        return {
            "run": self.attempt.run,
            "rank": self.attempt.rank,
            "attempt": self.attempt.number,
            "versions": [VERSION],
            "heads": dict(self.heads),
            "attempts": [
                {"attempt": attempt.number, "from": (position := self._resumed_from(attempt)) and position._asdict()}
                for attempt in self._attempts()
            ],
            **_limit_hparams(self.describe()),
        }

    def _resumed_from(self, attempt: Attempt) -> Cursor | None:
        if attempt.number >= self.attempt.number:
            return read_resumed_from(attempt)
        if attempt.number not in self._resumed:
            self._resumed[attempt.number] = read_resumed_from(attempt)
        return self._resumed[attempt.number]

    def _is_crowded(self, client: bytes) -> bool:
        return self._fetching[client] >= MAX_FETCHES or self._fetching.total() >= MAX_WAITING_FETCHES

    async def _fetch_in_turn(self, request: dict[str, Any], client: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Answer one `fetch` at a time, with pauses between them."""
        self._fetching[client] += 1
        try:
            async with self._turn:
                await asyncio.sleep(self._rest_until - time.monotonic())
                return await run_in_background(self._fetch_and_rest, request)
        finally:
            self._fetching[client] -= 1
            if not self._fetching[client]:
                del self._fetching[client]

    def _fetch_and_rest(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        # Processor time, since waiting for a disk does not slow down the training.
        started = time.thread_time()
        try:
            return self._fetch(request)
        finally:
            spent = time.thread_time() - started
            self._rest_until = time.monotonic() + min(spent * (1 / FETCH_SHARE - 1), LONGEST_REST_SECONDS)

    def _fetch(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        attempt, after = _parse_count(request, "attempt"), _parse_count(request, "after", minimum=-1)
        channels, credit = _parse_channels(request), min(_parse_count(request, "credit"), MAX_CREDIT)
        head = max(self.heads.values(), default=-1) if attempt == self.attempt.number else None
        session = self._sessions.take(attempt, after, channels)
        try:
            records = session.read(channels, credit)
        except (ProtocolError, OSError):
            session.reader.close()
            raise
        self._sessions.put_back(attempt, channels, session)
        ended = session.reader.ended and not session.ready
        if head is not None or not session.ready:
            # The journal may contain more than was published when the request arrived.
            head = max(session.reader.head, -1 if head is None else head)
        return {"scanned_to": session.scanned_to, "head": head, "ended": ended}, [b"".join(records)]

    def _acknowledge(self, request: dict[str, Any]) -> dict[str, Any]:
        sink = request.get("sink")
        if not isinstance(sink, str) or not 0 < len(sink) <= MAX_SINK_CHARACTERS:
            raise RequestError(f"sink is {sink!r:.60}, not a name")
        cursor = Cursor(_parse_count(request, "attempt"), _parse_count(request, "seq", minimum=-1))
        now = time.monotonic()
        if sink not in self.sinks and len(self.sinks) >= MAX_SINKS:
            for name in [name for name, known in self.sinks.items() if known.expires <= now]:
                del self.sinks[name]
            if len(self.sinks) >= MAX_SINKS:
                raise RequestError(f"the publisher already waits for {MAX_SINKS} sinks, the maximum")
        self.sinks[sink] = Acknowledgement(cursor, now + ACKNOWLEDGEMENT_SECONDS)
        return {}

    async def _take_command(self, request: dict[str, Any]) -> dict[str, Any]:
        command = request.get("command")
        fields = command if isinstance(command, dict) else {}
        identifier, verb, arguments = fields.get("id"), fields.get("verb"), fields.get("arguments", {})
        if not _is_name(identifier) or not _is_name(verb) or not isinstance(arguments, dict):
            raise RequestError(f"command is {command!r:.60}, not a map of id, verb and arguments")
        if self.on_command is None:
            raise RequestError("commands are not accepted: the training has no handler for them, or has ended")
        if identifier not in self._commands:
            handling = self.on_command(identifier, verb, arguments)
            if handling is not None:
                await handling
            self._commands[identifier] = None
            if len(self._commands) > MAX_COMMANDS:
                self._commands.popitem(last=False)
        return {}

    def _attempts(self) -> list[Attempt]:
        return list_attempts(self.attempt.folder.parents[2], self.attempt.rank)


def _limit_hparams(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description of the publisher without its largest hyperparameters if they are too large together."""
    hparams: Mapping[str, Any] = description.get("hparams", {})
    sizes = {name: len(msgpack.packb({name: value})) for name, value in hparams.items()}
    total, omitted = sum(sizes.values()), set[str]()
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        if total <= MAX_HPARAMS_BYTES:
            break
        total -= sizes[name]
        omitted.add(name)
    if not omitted:
        return dict(description)
    kept = {name: value for name, value in hparams.items() if name not in omitted}
    return {**description, "hparams": kept, "hparams_omitted": len(omitted)}


def _parse(frames: list[bytes]) -> dict[str, Any]:
    if len(frames) != 1:
        raise RequestError(f"the request has {len(frames)} frames, not one")
    request = unpack_map(frames[0])
    identifier = request.get("id")
    if identifier is not None and type(identifier) is not int and not isinstance(identifier, (str, bytes)):
        raise RequestError("the id is neither an integer, a string nor bytes")
    return request


def _parse_count(request: dict[str, Any], field: str, minimum: int = 0) -> int:
    value = request.get(field)
    if type(value) is not int or not minimum <= value < 2**63:
        raise RequestError(f"{field} is {value!r:.60}, not an integer of at least {minimum}")
    return value


def _parse_channels(request: dict[str, Any]) -> tuple[str, ...]:
    channels = request.get("channels")
    names = channels if isinstance(channels, tuple) and all(isinstance(name, str) for name in channels) else ()
    if not 0 < len(names) <= MAX_CHANNELS:
        raise RequestError(f"channels is {channels!r:.60}, not a list of 1 to {MAX_CHANNELS} names")
    return tuple(sorted(set(names)))


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= 256
