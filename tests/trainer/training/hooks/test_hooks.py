"""Marking, checking and calling hooks."""

from __future__ import annotations

import pytest

from trainwire.training.hooks.hooks import Binding, Hooks, function_bindings, hook, plugin_bindings
from trainwire.training.hooks.payloads import (
    HOOKS,
    TEARDOWN_HOOKS,
    AfterTrainingEpoch,
    TrainingFinally,
    TrainingInterrupt,
)
from trainwire.training.plugin import Plugin, checked_plugins
from trainwire_protocol.errors import OptionError, UsageError


class First(Plugin):
    @hook
    def training_interrupt(self, payload: TrainingInterrupt) -> None: ...

    @hook("after_training_epoch", "training_finally")
    def both(self, payload: object) -> None: ...


class Second(First):
    def both(self, payload: object) -> None: ...

    @hook
    def after_setup(self, payload: object) -> None: ...


def names_of(plugin: Plugin) -> list[str]:
    return [binding.name for binding in plugin_bindings(plugin)]


def test_there_are_sixteen_hooks() -> None:
    """Each hook has its own payload, whose name corresponds to the hook's."""
    assert len(HOOKS) == len(set(HOOKS.values())) == 16
    for name, payload in HOOKS.items():
        assert payload.__name__ == name.title().replace("_", "")


def test_methods_are_bound_in_the_order_of_definition() -> None:
    """Methods of a base class come first, and an overriding method keeps the mark and the position."""
    assert names_of(First()) == ["training_interrupt", "after_training_epoch", "training_finally"]
    assert names_of(Second()) == [*names_of(First()), "after_setup"]
    assert plugin_bindings(Second())[1].listener.__qualname__ == "Second.both"


def test_an_unknown_hook_is_refused_with_the_valid_names() -> None:
    """The error for a misspelled hook names the method and all hooks."""

    class Misspelled(Plugin):
        @hook
        def after_trainig_epoch(self, payload: object) -> None: ...

    with pytest.raises(OptionError) as raised:
        checked_plugins([Misspelled()])
    assert "Misspelled.after_trainig_epoch" in str(raised.value)
    assert all(name in str(raised.value) for name in HOOKS)


def test_an_async_hook_is_refused() -> None:
    """The error for an `async def` refers to `bus.watch`."""

    async def after_setup(payload: object) -> None: ...

    with pytest.raises(OptionError, match=r"bus\.watch"):
        function_bindings(["after_setup"], after_setup)


@pytest.mark.parametrize("function", [lambda: None, lambda first, second: None, lambda *, payload: None])
def test_a_function_that_does_not_take_one_argument_is_refused(function: object) -> None:
    """A function that cannot be called with the payload alone is refused when it is bound."""
    with pytest.raises(OptionError, match="one argument, its payload"):
        function_bindings(["after_setup"], function)  # type: ignore[arg-type]  # that is the test


def test_an_annotation_with_another_payload_is_refused() -> None:
    """A method whose annotation is another hook's payload is refused."""

    def report(epoch: AfterTrainingEpoch) -> None: ...

    assert function_bindings(["after_training_epoch"], report) == [Binding("after_training_epoch", report)]
    with pytest.raises(OptionError, match="with BeforeTrainingEpoch, not with AfterTrainingEpoch"):
        function_bindings(["before_training_epoch"], report)


def test_a_method_with_the_name_of_a_hook_must_be_marked() -> None:
    """A missing `@hook` is an error."""

    class Unmarked(Plugin):
        def after_training_epoch(self, payload: object) -> None: ...

    with pytest.raises(OptionError, match="mark it with @hook"):
        plugin_bindings(Unmarked())


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ([First], r"give an instance, First\(\)"),
        ([3], "not a trainwire.Plugin"),
        (First(), "give a list of plugins"),
        ([plugin := First(), First(), plugin], r"plugins\[2\], a First, is attached twice"),
    ],
)
def test_invalid_plugins_are_refused(plugins: object, message: str) -> None:
    """Classes, other objects, and the same instance twice are refused; two instances of a class are not."""
    with pytest.raises(OptionError, match=message):
        checked_plugins(plugins)


def test_teardown_hooks_are_called_in_reverse() -> None:
    """Listeners are called in attach order, and at the end of a training in reverse order."""
    called: list[tuple[str, int]] = []

    def listener(name: str, number: int) -> Binding:
        return Binding(name, lambda payload: called.append((name, number)))

    names = ["after_training_epoch", "training_finally"]
    hooks = Hooks([listener(name, number) for number in (1, 2) for name in names])
    hooks.dispatch(AfterTrainingEpoch(1, 1, True, 0.0, {}))
    hooks.dispatch_to_all(TrainingFinally("finished", ""))
    assert called == [
        ("after_training_epoch", 1), ("after_training_epoch", 2), ("training_finally", 2), ("training_finally", 1),
    ]  # fmt: skip
    assert TrainingFinally in TEARDOWN_HOOKS


def test_all_listeners_of_a_teardown_hook_are_called(caplog: pytest.LogCaptureFixture) -> None:
    """Every listener is called, even after an error; then the first error is raised, and the others are logged."""
    called = []

    def fail(payload: object) -> None:
        called.append(payload)
        raise ValueError(f"failure {len(called)}")

    hooks = Hooks([Binding("training_finally", fail)] * 2)
    with pytest.raises(ValueError, match="failure 1"):
        hooks.dispatch_to_all(TrainingFinally("finished", ""))
    assert len(called) == 2
    assert "failure 2" in caplog.text


def test_a_plugin_outside_a_training_has_no_run() -> None:
    """`run` raises UsageError unless a training is running."""
    with pytest.raises(UsageError, match="First is not attached"):
        _ = First().run
