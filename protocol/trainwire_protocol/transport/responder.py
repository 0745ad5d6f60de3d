"""Answers a publisher's requests: frames in, frames out, no sockets. `docs/wire-protocol.md` lists the requests."""

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

MAX_SCANNED_BYTES: Final = 2 << 20
"""Bytes of the journal that one `fetch` goes through at most to find what is wanted."""

MAX_FETCH_SESSIONS: Final = 16
"""Places in the journal that are kept open between one `fetch` and the next."""


@dataclass
class FetchSession:
    """A place in an attempt's journal from which slices are taken."""

    reader: JournalReader
    ready: deque[Batch] = field(default_factory=deque)
    scanned_to: int = -1

    def take(self, channels: Collection[str], credit: int) -> list[bytes]:
        """The next records of these channels, as many as the credit allows, and one if it allows none."""
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
    """The places that were read last, by what is wanted behind them."""

    def __init__(self, attempts: Callable[[], Iterable[Attempt]]) -> None:
        """Prepare; `attempts` lists those that can be read."""
        self._attempts = attempts
        self._places: OrderedDict[tuple[int, int, tuple[str, ...]], FetchSession] = OrderedDict()
        self._room = MAX_FETCH_SESSIONS

    def __len__(self) -> int:
        """How many places are open."""
        return len(self._places)

    def at(self, number: int, after: int, channels: tuple[str, ...]) -> FetchSession:
        """The place behind seq `after` of an attempt, for who reads these channels; the caller has it for itself.

        Raises:
            RequestError: there is no such attempt.
        """
        known = self._places.pop((number, after, channels), None)
        if known:
            return known
        attempt = next((attempt for attempt in self._attempts() if attempt.number == number), None)
        if attempt is None:
            raise RequestError(f"there is no attempt {number}")
        return FetchSession(JournalReader(attempt.folder, after), scanned_to=after)

    def keep(self, number: int, channels: tuple[str, ...], replay: FetchSession) -> None:
        """Keep a place for who reads on from there, in place of the one that was longest unused."""
        displaced = self._places.pop((number, replay.scanned_to, channels), None)
        if displaced:
            displaced.reader.close()
        self._places[number, replay.scanned_to, channels] = replay
        self._make_room()

    def close(self) -> None:
        """Let go of the journal's files; what is still being read is let go of when it is to be kept."""
        self._room = 0
        self._make_room()

    def _make_room(self) -> None:
        while len(self._places) > self._room:
            self._places.popitem(last=False)[1].reader.close()


MAX_CREDIT: Final = 4 << 20
"""Most bytes that one `fetch` is answered with, unless a single batch is larger."""

ACKNOWLEDGEMENT_SECONDS: Final = 30.0
"""A sink that has not said for so long how far it has got is not waited for."""

MAX_SINKS: Final = 1000
"""Sinks whose acknowledgements are kept."""

FETCH_SHARE: Final = 0.05
"""Share of a processor's time that answering `fetch` may take."""

MAX_FETCHES: Final = 4
"""Requests for history of one client that wait at once: others want theirs too. Further ones are not answered."""

LONGEST_REST_SECONDS: Final = 1.0
"""Longest rest after a `fetch`: a client that waits longer for its answer asks again, and that costs more."""

MAX_WAITING_FETCHES: Final = 48
"""The same of all clients: what else is asked is answered meanwhile."""

MAX_CHANNELS: Final = 16
"""Channels that one `fetch` can name."""

MAX_SINK_CHARACTERS: Final = 256
"""Longest name of a sink, in characters."""

MAX_COMMANDS: Final = 1000
"""Commands whose ids are known, so that one that comes again is not obeyed twice."""


@dataclass
class Acknowledgement:
    """How far a sink has got, and until when its word counts."""

    cursor: Cursor
    expires: float
    """On the monotonic clock."""


@dataclass
class Responder:
    """Knows the answers of one attempt's publisher."""

    attempt: Attempt
    heads: Mapping[str, int]
    """For each channel the last seq that was published on it."""
    describe: Callable[[], Mapping[str, Any]]
    """What `hello` tells beside the responder's own."""
    sinks: dict[str, Acknowledgement] = field(default_factory=dict)
    on_command: Callable[[str, str, Mapping[str, Any]], Awaitable[None] | None] | None = None
    """Is handed each command once: its id, verb and arguments. Raises RequestError if it cannot be taken."""
    _commands: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _replays: FetchSessions = field(init=False)
    _resumed: dict[int, Cursor | None] = field(default_factory=dict)
    _fetching: Counter[bytes] = field(default_factory=Counter)
    """For each client the requests for history that wait for their turn."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _rest_until: float = 0.0

    def __post_init__(self) -> None:
        self._replays = FetchSessions(self._attempts)

    async def answer(self, frames: list[bytes], client: bytes = b"", *, may_command: bool = True) -> list[bytes]:
        """The frames that answer a request; one that cannot be understood, or is not permitted, with an `error`.

        There are none where too much is asked for at once: who does not hear anything asks again.
        """
        identifier: object = None
        try:
            request = _parse(frames)
            identifier = request.get("id")
            if request.get("verb") == "command" and not may_command:
                raise RequestError("this key may read, and send no commands")
            if request.get("verb") == "fetch" and self._is_crowded(client):
                return []
            head, records = await self._handle(request, client)
        except (ProtocolError, OSError) as error:
            # A relay's publisher may have refused it: who asks here hears the reason, and who refused it once.
            reason = error.reason if isinstance(error, RefusedError) else str(error)
            head, records = {"error": reason}, []
        return [msgpack.packb({"id": identifier, **head}), *records]

    def close(self) -> None:
        """Let go of the journal's files."""
        self._replays.close()

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
                raise RequestError(f"the verb is {_short(verb)}; known are hello, fetch, ack and command")

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
            **self.describe(),
        }

    def _resumed_from(self, attempt: Attempt) -> Cursor | None:
        if attempt.number >= self.attempt.number:
            return read_resumed_from(attempt)
        if attempt.number not in self._resumed:
            self._resumed[attempt.number] = read_resumed_from(attempt)
        return self._resumed[attempt.number]

    def _is_crowded(self, client: bytes) -> bool:
        """Whether this client, or all together, wait for as much as they may."""
        return self._fetching[client] >= MAX_FETCHES or self._fetching.total() >= MAX_WAITING_FETCHES

    async def _fetch_in_turn(self, request: dict[str, Any], client: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """One `fetch` after another, with rests between them."""
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
        # The processor's time, since waiting for a disk keeps nobody from training.
        begun = time.thread_time()
        try:
            return self._fetch(request)
        finally:
            spent = time.thread_time() - begun
            self._rest_until = time.monotonic() + min(spent * (1 / FETCH_SHARE - 1), LONGEST_REST_SECONDS)

    def _fetch(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        attempt, after = _count(request, "attempt"), _count(request, "after", least=-1)
        channels, credit = _channels(request), min(_count(request, "credit"), MAX_CREDIT)
        head = max(self.heads.values(), default=-1) if attempt == self.attempt.number else None
        replay = self._replays.at(attempt, after, channels)
        try:
            records = replay.take(channels, credit)
        except (ProtocolError, OSError):
            replay.reader.close()
            raise
        self._replays.keep(attempt, channels, replay)
        ended = replay.reader.ended and not replay.ready
        if head is None and not replay.ready:
            head = replay.reader.head
        return {"scanned_to": replay.scanned_to, "head": head, "ended": ended}, [b"".join(records)]

    def _acknowledge(self, request: dict[str, Any]) -> dict[str, Any]:
        sink = request.get("sink")
        if not isinstance(sink, str) or not 0 < len(sink) <= MAX_SINK_CHARACTERS:
            raise RequestError(f"sink is {_short(sink)}, not a name")
        cursor = Cursor(_count(request, "attempt"), _count(request, "seq", least=-1))
        now = time.monotonic()
        if sink not in self.sinks and len(self.sinks) >= MAX_SINKS:
            for name in [name for name, known in self.sinks.items() if known.expires <= now]:
                del self.sinks[name]
            if len(self.sinks) >= MAX_SINKS:
                raise RequestError(f"{MAX_SINKS} sinks are waited for already")
        self.sinks[sink] = Acknowledgement(cursor, now + ACKNOWLEDGEMENT_SECONDS)
        return {}

    async def _take_command(self, request: dict[str, Any]) -> dict[str, Any]:
        command = request.get("command")
        fields = command if isinstance(command, dict) else {}
        identifier, verb, arguments = fields.get("id"), fields.get("verb"), fields.get("arguments", {})
        if not _is_name(identifier) or not _is_name(verb) or not isinstance(arguments, dict):
            raise RequestError(f"command is {_short(command)}, not a map of id, verb and arguments")
        if self.on_command is None:
            raise RequestError("nothing here takes commands: the training has no loop that listens, or is over")
        if identifier not in self._commands:
            taking = self.on_command(identifier, verb, arguments)
            if taking is not None:
                await taking
            self._commands[identifier] = None
            if len(self._commands) > MAX_COMMANDS:
                self._commands.popitem(last=False)
        return {}

    def _attempts(self) -> list[Attempt]:
        return list_attempts(self.attempt.folder.parents[2], self.attempt.rank)


def _parse(frames: list[bytes]) -> dict[str, Any]:
    if len(frames) != 1:
        raise RequestError(f"a request of {len(frames)} frames, not one")
    request = unpack_map(frames[0])
    identifier = request.get("id")
    if identifier is not None and type(identifier) is not int and not isinstance(identifier, (str, bytes)):
        raise RequestError("the id is neither a number nor a string")
    return request


def _count(request: dict[str, Any], field: str, least: int = 0) -> int:
    value = request.get(field)
    if type(value) is not int or not least <= value < 2**63:
        raise RequestError(f"{field} is {_short(value)}, not an integer of at least {least}")
    return value


def _channels(request: dict[str, Any]) -> tuple[str, ...]:
    channels = request.get("channels")
    if not isinstance(channels, tuple) or not all(isinstance(channel, str) for channel in channels):
        raise RequestError(f"channels is {_short(channels)}, not a list of names")
    if not 0 < len(channels) <= MAX_CHANNELS:
        raise RequestError(f"channels is {_short(channels)}, not a list of names")
    return tuple(sorted(set(channels)))


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= 256


def _short(value: object) -> str:
    return f"{value!r:.60}"
