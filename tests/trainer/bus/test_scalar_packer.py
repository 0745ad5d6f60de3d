"""Scalars that are packed together have the bytes of those that are packed one by one."""

from __future__ import annotations

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from trainwire.bus.scalar_packer import ScalarPacker

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), max_size=12, unique=True)
STEPS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 127, 128, 255, 256, 65535, 65536, -32, -33, -129])


@given(NAMES, st.lists(st.tuples(st.floats(), st.floats(), STEPS), min_size=1, max_size=8))
def test_the_bytes_are_those_of_messagepack(names: list[str], calls: list[tuple[float, float, int]]) -> None:
    """The bytes equal MessagePack's for any names, values, walltimes and steps, and after any earlier call."""
    packer = ScalarPacker(names)
    for value, walltime, step in calls:
        values = [value + number for number in range(len(names))]
        rows = [(name, number, "scalar", walltime, step) for name, number in zip(names, values, strict=True)]
        assert packer.pack(values, walltime, step) == b"".join(map(msgpack.packb, rows))
