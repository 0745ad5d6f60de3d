"""The base of plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from trainwire.training.hooks.hooks import Binding, plugin_bindings
from trainwire_protocol.errors import OptionError, UsageError

if TYPE_CHECKING:
    from trainwire.training.run import TrainingRun


class Plugin:
    """Something that takes part in a training: a class whose methods marked with `@hook` are called at its hooks.

    One instance takes part in one training at a time, and keeps no reference to it afterwards.
    """

    essential: ClassVar[bool] = True
    """Whether its failure ends the training; otherwise it is reported, and the third one disables the plugin."""
    after: ClassVar[tuple[str, ...]] = ()
    """Names of plugins' classes; where such plugins are attached, this one is called after them."""
    before: ClassVar[tuple[str, ...]] = ()
    """Names of plugins' classes; where such plugins are attached, this one is called before them."""

    _run: TrainingRun | None = None

    @property
    def run(self) -> TrainingRun:
        """The training in which this plugin takes part.

        Raises:
            UsageError: there is none now.
        """
        if self._run is None:
            raise UsageError(
                f"{type(self).__name__} takes part in no training now: its `run` exists while `train` runs"
            )
        return self._run

    def bindings(self) -> list[Binding]:
        """What is to be called, and at which hooks: the methods that are marked.

        Raises:
            OptionError: a method cannot be called at its hook.
        """
        return plugin_bindings(self)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this plugin: numbers, strings, tensors, and lists and maps of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave: called in a resumed training, once `after_setup` is over."""

    def attach(self, run: TrainingRun) -> None:
        """Take part in `run`: called by the trainer before `after_setup`."""
        if self._run is not None:
            raise OptionError(f"{type(self).__name__} takes part in another training: make one instance for each")
        self._run = run

    def detach(self) -> None:
        """Leave the training: called by the trainer when it is over, in whichever way."""
        self._run = None


class Functions(Plugin):
    """The single functions that were added with `ModelTrainer.on`."""

    def __init__(self) -> None:
        self.added: list[Binding] = []

    def bindings(self) -> list[Binding]:
        """The functions, in the order in which they were added."""
        return self.added


def checked_plugins(plugins: object) -> tuple[Plugin, ...]:
    """The plugins, if each is one and its hooks exist.

    Raises:
        OptionError: something is no plugin, is there twice, or has a hook that cannot work.
    """
    if isinstance(plugins, Plugin) or not isinstance(plugins, (list, tuple)):
        raise OptionError(f"plugins is {plugins!r}: give a list of plugins")
    for number, plugin in enumerate(plugins):
        if isinstance(plugin, type):
            raise OptionError(
                f"plugins[{number}] is the class {plugin.__name__}: give an instance, {plugin.__name__}()"
            )
        if not isinstance(plugin, Plugin):
            raise OptionError(f"plugins[{number}] is {plugin!r}, no trainwire.Plugin")
        if any(plugin is other for other in plugins[:number]):
            raise OptionError(f"plugins[{number}], a {type(plugin).__name__}, is attached twice: leave one out")
        declarations: tuple[object, ...] = (plugin.after, plugin.before)
        for declared in declarations:
            if not isinstance(declared, (list, tuple)) or not all(isinstance(name, str) for name in declared):
                raise OptionError(f"{type(plugin).__name__} declares {declared!r}: give a tuple of names of classes")
        plugin.bindings()
    return tuple(plugins)
