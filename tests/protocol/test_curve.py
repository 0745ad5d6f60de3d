"""Keys, and who is let in by them."""

from __future__ import annotations

import asyncio
import logging

import pytest
import zmq.asyncio
from publisher import run

from trainwire_protocol.curve import DoorKeeper, KeyPair, ServerKeys


def test_a_secret_is_never_shown() -> None:
    """Neither a pair of keys nor what holds one shows its secret when it is printed."""
    pair = KeyPair.make()
    for shown in (repr(pair), str(pair), repr(ServerKeys(pair, frozenset()))):
        assert pair.secret not in shown
        assert pair.public in shown


def test_pairs_differ() -> None:
    """Two pairs have nothing in common."""
    assert not {*KeyPair.make()} & {*KeyPair.make()}


def test_who_is_not_on_the_list_is_counted_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """The door opens for keys on the list; others are counted, and told of now and then without their keys."""
    friend, stranger = KeyPair.make(), KeyPair.make()

    async def main() -> None:
        context = zmq.asyncio.Context()
        door = DoorKeeper(context, [friend.public])
        assert door.callback("*", friend.public.encode())
        for _ in range(3):
            assert not door.callback("*", stranger.public.encode())
        assert door.refused == 3
        door.stop()
        await asyncio.sleep(0)
        context.term()

    with caplog.at_level(logging.WARNING):
        run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "refused a client whose key is not on the list (1 so far)"
    ]
