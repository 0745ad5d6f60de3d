"""How functions come to be called at a hook: marking, checking and calling them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, overload

from trainwire.training.hooks.filters import Filter
from trainwire.training.hooks.payloads import HOOKS, TEARDOWN_HOOKS, Payload
from trainwire_protocol.errors import OptionError

Listener: TypeAlias = Callable[[Any], object]
Function = TypeVar("Function", bound=Callable[..., Any])

_MARK: Final = "_trainwire_hooks"

logger = logging.getLogger("trainwire")


class Binding(NamedTuple):
    """A function that is to be called at a hook."""

    name: str
    listener: Listener


class Mark(NamedTuple):
    """What `@hook` leaves on a method."""

    names: tuple[str, ...]
    wanted: Filter = Filter()


@overload
def hook(function: Function, /) -> Function: ...
@overload
def hook(
    *names: str, every: int | None = None, once: int | None = None, split: str | None = None
) -> Callable[[Function], Function]: ...
def hook(*arguments: Any, every: int | None = None, once: int | None = None, split: str | None = None) -> Any:
    """Mark a method of a `Plugin` as one that is called at the hook of its name, or at the hooks named.

    The method takes one parameter, the hook's payload:

        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None: ...

        @hook("training_exception", "training_interrupt")
        def clean_up(self, payload: Payload) -> None: ...

        @hook(every=100)
        def after_training_batch(self, batch: AfterTrainingBatch) -> None: ...

    Whether names, parameters and filters fit is checked when the plugin is attached.

    Args:
        *arguments: The method, or names of hooks.
        every: Call it only where what the payload counts (`step`, else `number`, else `epoch`) is a multiple of this.
        once: Call it only where that is this number.
        split: Call it only for this split, at the hooks of an evaluation.
    """
    if len(arguments) == 1 and callable(arguments[0]):
        return _mark(arguments[0], Mark((arguments[0].__name__,)))
    wanted = Filter(every, once, split)
    return lambda function: _mark(function, Mark(arguments or (function.__name__,), wanted))


def _mark(function: Function, mark: Mark) -> Function:
    setattr(function, _MARK, (*getattr(function, _MARK, ()), mark))
    return function


def plugin_bindings(plugin: object) -> list[Binding]:
    """A plugin's marked methods in the order in which its classes define them.

    Raises:
        OptionError: a hook that does not exist, a method that cannot be called with its payload, an `async def`, or
            a method that has a hook's name and no mark.
    """
    marks_of_methods: dict[str, tuple[Mark, ...]] = {}
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
        for binding in function_bindings(mark.names, getattr(plugin, attribute), mark.wanted)
    ]


def function_bindings(names: Iterable[str], function: Listener, wanted: Filter = Filter()) -> list[Binding]:  # noqa: B008  # immutable
    """One function at each of the named hooks, for the calls that it wants.

    Raises:
        OptionError: as for `plugin_bindings`.
    """
    where = getattr(function, "__qualname__", repr(function))
    return [Binding(name, wanted.apply(name, where, _checked(name, where, function))) for name in names]


def _checked(name: str, where: str, function: Listener) -> Listener:
    if name not in HOOKS:
        raise OptionError(f"{where}: there is no hook {name!r}; the hooks are {', '.join(HOOKS)}")
    if inspect.iscoroutinefunction(function):
        raise OptionError(f"{where}: a hook cannot be async; use bus.watch for handlers that wait")
    try:
        parameters = inspect.signature(function)
        bound = parameters.bind(None)
    except TypeError as error:
        raise OptionError(f"{where}: a hook is called with one argument, its payload: {error}") from None
    _check_annotation(where, name, parameters.parameters[next(iter(bound.arguments))].annotation)
    return function


def _check_annotation(where: str, name: str, annotation: object) -> None:
    written = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    written, wanted = written.rpartition(".")[2], HOOKS[name].__name__
    if written != wanted and written in {payload.__name__ for payload in HOOKS.values()}:
        raise OptionError(f"{where}: the hook {name!r} is called with {wanted}, not with {written}")


class Hooks:
    """The functions that are called at each hook of one run.

    Attributes:
        listeners: For each payload's class what is called with it. The hot path looks here first, and builds a
            payload only if somebody listens.
    """

    def __init__(self, bindings: Iterable[Binding] = ()) -> None:
        collected: dict[type[Payload], list[Listener]] = {payload: [] for payload in HOOKS.values()}
        for name, listener in bindings:
            collected[HOOKS[name]].append(listener)
        for payload in TEARDOWN_HOOKS:
            collected[payload].reverse()
        self.listeners = {payload: tuple(listeners) for payload, listeners in collected.items()}

    def dispatch(self, payload: Payload) -> None:
        """Call the hook's listeners in order; what one raises ends this."""
        for listener in self.listeners[type(payload)]:
            listener(payload)

    def dispatch_to_all(self, payload: Payload) -> None:
        """Call every listener, whatever others raise; then raise the first error, and log the others."""
        errors = list(self._errors(payload))
        for error in errors[1:]:
            logger.error("one more plugin failed at its end: %s", error, exc_info=error)
        if errors:
            raise errors[0]

    def _errors(self, payload: Payload) -> Iterator[Exception]:
        for listener in self.listeners[type(payload)]:
            try:
                listener(payload)
            except Exception as error:
                yield error
