"""The last step of each name is remembered, however names are grouped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainwire.bus import batcher
from trainwire.bus.batcher import Group, StepWatch

CALLS = st.lists(
    st.tuples(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), st.integers(-3, 3)), max_size=40
)


@given(CALLS)
def test_it_notices_the_same_names_as_one_that_looks_at_each(calls: list[tuple[list[str], int]]) -> None:
    """Groups that are looked at once hide no name that goes back, and make none up."""
    watch, last, groups = StepWatch(), dict[str, int](), dict[tuple[str, ...], Group]()
    for names, step in calls:
        expected = {name for name in names if step < last.get(name, step)}
        last |= dict.fromkeys(names, step)
        group = groups.get(tuple(names))
        if group and watch.advance(group, step):
            assert not expected
            continue
        assert {name for name in names if watch.decreases(name, step)} == expected
        groups[tuple(names)] = group or group_of(watch, names)


@given(CALLS)
def test_names_that_are_known_together_go_on_together(calls: list[tuple[list[str], int]]) -> None:
    """A group that was seen before, and whose names were at no later step, is looked at as one."""
    watch = StepWatch()
    for names, step in calls:
        for name in names:
            watch.decreases(name, step)
        assert watch.advance(group_of(watch, names), step)


def test_it_remembers_no_more_than_a_bound() -> None:
    """New names for ever do not fill the memory."""
    watch, groups = StepWatch(), list[Group]()
    for number in range(batcher.MAX_NAMES + 10):
        watch.decreases(f"name-{number}", number)
        group = watch.add_group((f"name-{number}",))
        if group:
            groups.append(group)
            watch.advance(group, number)
    watch.decreases("name-0", 0)
    assert len(watch._steps) == len(groups) == batcher.MAX_NAMES
    assert not watch._recent


def group_of(watch: StepWatch, names: list[str]) -> Group:
    group = watch.add_group(tuple(names))
    assert group
    return group
