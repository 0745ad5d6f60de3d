"""CURVE keys."""

from __future__ import annotations

from trainwire_protocol.transport.auth import KeyPair, ServerKeys, is_key


def test_repr_hides_secret_keys() -> None:
    """The repr and str of key pairs and server keys contain no secret key."""
    pair = KeyPair.make()
    for shown in (repr(pair), str(pair), repr(ServerKeys(pair, frozenset()))):
        assert pair.secret not in shown
        assert pair.public in shown


def test_generated_pairs_differ() -> None:
    """Two generated pairs share no key."""
    assert not {*KeyPair.make()} & {*KeyPair.make()}


def test_is_key() -> None:
    """Only strings of 40 characters in Z85 are keys."""
    assert is_key(KeyPair.make().public)
    assert not any(map(is_key, ["", "a" * 39, "a" * 41, "~" * 40, None, 5]))
