"""Hooks: how methods and functions are marked, checked, filtered and called."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, overload

from trainwire.training.hooks.payloads import HOOKS, TEARDOWN_HOOKS, AssignablePayload, Payload
from trainwire_protocol.errors import OptionError, UsageError

Listener: TypeAlias = Callable[[Any], object]
Function = TypeVar("Function", bound=Callable[..., Any])

_MARK: Final = "_trainwire_hooks"
_COUNTERS: Final = ("step", "number", "epoch")

logger = logging.getLogger("trainwire")


class Filter(NamedTuple):
    """Selects the calls of a hook that a listener receives; None means no restriction.

    `every` and `once` refer to the payload's `step`, or else its `number`, or else its `epoch`. A resumed training
    therefore calls the listener for the same steps as an uninterrupted one.
    """

    every: int | None = None
    """Calls whose count is a multiple of this."""
    once: int | None = None
    """The call with this count."""
    split: str | None = None
    """Calls for this split."""

    def apply(self, name: str, where: str, listener: Listener) -> Listener:
        """Return a listener for the hook `name` that is called only for the selected calls.

        Args:
            where: The name of the listener in error messages.

        Raises:
            OptionError: if the hook has nothing to count, or is not about a split.
        """
        if self == Filter():
            return listener
        counter = self._checked_counter(name, where)
        every, once, split = self

        @functools.wraps(listener)
        def filtered(payload: Any) -> None:
            count = getattr(payload, counter)
            is_counted = (every is None or count % every == 0) and once in (None, count)
            if is_counted and (split is None or payload.split == split):
                listener(payload)

        return filtered

    def _checked_counter(self, name: str, where: str) -> str:
        fields = {field.name for field in dataclasses.fields(HOOKS[name])}  # type: ignore[arg-type]  # all are dataclasses
        for option, value in (("every", self.every), ("once", self.once)):
            if value is not None and (type(value) is not int or value < 1):
                raise OptionError(f"{where}: {option} is {value!r}; it must be an integer of at least 1")
        if self.split is not None and "split" not in fields:
            raise OptionError(f"{where}: split={self.split!r} is only valid for evaluation hooks, not for {name!r}")
        counter = next((field for field in _COUNTERS if field in fields), None)
        if counter is None:
            raise OptionError(f"{where}: {name!r} is called once: omit every= and once=")
        return counter


class Binding(NamedTuple):
    """A function to call at a hook."""

    name: str
    listener: Listener


class HookMark(NamedTuple):
    """The hooks and the filter that `@hook` attaches to a method."""

    names: tuple[str, ...]
    selection: Filter = Filter()


@overload
def hook(function: Function, /) -> Function: ...
@overload
def hook(
    *names: str, every: int | None = None, once: int | None = None, split: str | None = None
) -> Callable[[Function], Function]: ...
def hook(*arguments: Any, every: int | None = None, once: int | None = None, split: str | None = None) -> Any:
    """Mark a method of a `Plugin` to be called at the hook of the same name, or at the named hooks.

    The method takes one parameter, the hook's payload:

        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None: ...

        @hook("training_exception", "training_interrupt")
        def clean_up(self, payload: Payload) -> None: ...

        @hook(every=100)
        def after_training_batch(self, batch: AfterTrainingBatch) -> None: ...

    Names, parameters and filters are checked when the plugin is attached.

    Args:
        *arguments: The method, or names of hooks.
        every: Call it only if the payload's count (`step`, or else `number`, or else `epoch`) is a multiple of this.
        once: Call it only if the count equals this.
        split: Call it only for this split; for the evaluation hooks.
    """
    if len(arguments) == 1 and callable(arguments[0]):
        return _mark(arguments[0], HookMark((arguments[0].__name__,)))
    selection = Filter(every, once, split)
    return lambda function: _mark(function, HookMark(arguments or (function.__name__,), selection))


def _mark(function: Function, mark: HookMark) -> Function:
    setattr(function, _MARK, (*getattr(function, _MARK, ()), mark))
    return function


def plugin_bindings(plugin: object) -> list[Binding]:
    """Return the bindings of a plugin's marked methods, in the order in which its classes define them.

    Raises:
        OptionError: if a hook does not exist, a method cannot be called with the hook's payload, a method is an
            `async def`, or a method has the name of a hook and no mark.
    """
    marks_of_methods: dict[str, tuple[HookMark, ...]] = {}
    for base in reversed(type(plugin).__mro__):
        for attribute, value in vars(base).items():
            marked = getattr(value, _MARK, None) or marks_of_methods.get(attribute)
            if marked:
                marks_of_methods[attribute] = marked
            elif attribute in HOOKS and callable(value):
                raise OptionError(f"{type(plugin).__name__}.{attribute} has the name of a hook: mark it with @hook")
    return [
        binding
        for attribute, marks in marks_of_methods.items()
        for mark in marks
        for binding in function_bindings(mark.names, getattr(plugin, attribute), mark.selection)
    ]


def function_bindings(names: Iterable[str], function: Listener, selection: Filter = Filter()) -> list[Binding]:  # noqa: B008  # immutable
    """Return the bindings of one function to the named hooks, for the selected calls.

    Raises:
        OptionError: as for `plugin_bindings`.
    """
    where = getattr(function, "__qualname__", repr(function))
    return [Binding(name, selection.apply(name, where, _checked(name, where, function))) for name in names]


def _checked(name: str, where: str, function: Listener) -> Listener:
    """Return a listener that calls the function, if it can be called at the hook; raise OptionError otherwise."""
    if name not in HOOKS:
        raise OptionError(f"{where}: there is no hook {name!r}; the hooks are {', '.join(HOOKS)}")
    if inspect.iscoroutinefunction(function):
        raise OptionError(f"{where}: a hook cannot be async; use bus.watch for async handlers")
    try:
        signature = inspect.signature(function)
        bound = signature.bind(None)
    except TypeError as error:
        raise OptionError(f"{where}: a hook is called with one argument, its payload: {error}") from None
    annotation = signature.parameters[next(iter(bound.arguments))].annotation
    written = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    written, expected = written.rpartition(".")[2], HOOKS[name].__name__
    if written != expected and written in {payload.__name__ for payload in HOOKS.values()}:
        raise OptionError(f"{where}: the hook {name!r} is called with {expected}, not with {written}")
    return _assigning(where, function) if issubclass(HOOKS[name], AssignablePayload) else function


def _assigning(where: str, function: Listener) -> Listener:
    """Return a listener after which the payload has a valid value: if the function fails, the one from before."""

    @functools.wraps(function)
    def assigning(payload: AssignablePayload) -> None:
        field = payload.assignable
        before = getattr(payload, field)
        try:
            function(payload)
            problem = None if getattr(payload, field) is before else payload.problem()
            if problem is not None:
                raise UsageError(f"{where} assigned {problem}")
        except BaseException:
            setattr(payload, field, before)
            raise

    return assigning


class Hooks:
    """The functions that are called at each hook of one run.

    Attributes:
        listeners: The functions by the payload's class. The training step checks this first, and builds a payload
            only if there is a listener.
    """

    def __init__(self, bindings: Iterable[Binding] = ()) -> None:
        collected: dict[type[Payload], list[Listener]] = {payload: [] for payload in HOOKS.values()}
        for name, listener in bindings:
            collected[HOOKS[name]].append(listener)
        for payload in TEARDOWN_HOOKS:
            collected[payload].reverse()
        self.listeners = {payload: tuple(listeners) for payload, listeners in collected.items()}

    def dispatch(self, payload: Payload) -> None:
        """Call the hook's listeners in order, up to the first that raises."""
        for listener in self.listeners[type(payload)]:
            listener(payload)

    def dispatch_to_all(self, payload: Payload) -> None:
        """Call every listener, even after one has raised; then raise the first error, and log the others."""
        errors = []
        for listener in self.listeners[type(payload)]:
            try:
                listener(payload)
            except Exception as error:
                errors.append(error)
        for further in errors[1:]:
            logger.error("another plugin failed while the training was ending: %s", further, exc_info=further)
        if errors:
            raise errors[0]
