"""The last step of each name is remembered, however the names are grouped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainwire.bus import batcher
from trainwire.bus.batcher import Group, StepWatch

CALLS = st.lists(
    st.tuples(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), st.integers(-3, 3)), max_size=40
)


@given(CALLS)
def test_groups_give_the_same_result_as_single_names(calls: list[tuple[list[str], int]]) -> None:
    """Grouped names give the same result as a check of each name."""
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
def test_a_known_group_advances_as_one(calls: list[tuple[list[str], int]]) -> None:
    """A known group advances as one if none of its names was at a later step."""
    watch = StepWatch()
    for names, step in calls:
        for name in names:
            watch.decreases(name, step)
        assert watch.advance(group_of(watch, names), step)


def test_it_remembers_no_more_than_a_bound() -> None:
    """The number of names and groups that are remembered is limited."""
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
