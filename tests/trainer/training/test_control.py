"""What several processes request, and what must be the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trainwire.training.control import Control, Requests
from trainwire_protocol.errors import UsageError


def decide(*controls: Control) -> None:
    """Let each control decide on what all of them request, as processes that train together do."""

    def agree(requests: Requests) -> Requests:
        everything.append(requests.numbers())
        return Requests.of_numbers([max(numbers) for numbers in zip(*everything, strict=True)])

    everything: list[Sequence[float]] = []
    for control in controls:
        control.decide(agree)


@pytest.mark.parametrize("others", [[], [(1, 1)], [(1, 0), (2, 1)], [(2, 0)]])
def test_the_same_updates_must_be_omitted(others: list[tuple[int, int]]) -> None:
    """It is an error if `forward_for` returned None for other optimizers or in other steps in another process."""
    one, other = Control(), Control()
    for control in (one, other):
        control.omit_update(0, 1)
    decide(one, other)
    one.omit_update(1, 0)
    for omitted in others:
        other.omit_update(*omitted)
    with pytest.raises(
        UsageError, match="forward_for returned None for an optimizer in one process and not in another"
    ):
        decide(one, other)
