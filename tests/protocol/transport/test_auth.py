"""Keys."""

from __future__ import annotations

from trainwire_protocol.transport.auth import KeyPair, ServerKeys, is_key


def test_a_secret_is_never_shown() -> None:
    """Neither a pair of keys nor what holds one shows its secret when it is printed."""
    pair = KeyPair.make()
    for shown in (repr(pair), str(pair), repr(ServerKeys(pair, frozenset()))):
        assert pair.secret not in shown
        assert pair.public in shown


def test_pairs_differ() -> None:
    """Two pairs have nothing in common."""
    assert not {*KeyPair.make()} & {*KeyPair.make()}


def test_what_is_a_key() -> None:
    """A key is 40 characters of Z85."""
    assert is_key(KeyPair.make().public)
    assert not any(map(is_key, ["", "a" * 39, "a" * 41, "~" * 40, None, 5]))
