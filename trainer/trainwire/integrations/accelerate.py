"""A tracker for Accelerate: importing this module makes `Accelerator(log_with="trainwire")` work."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

from trainwire.bus.bus import EventBus
from trainwire.bus.open_bus import open_bus
from trainwire.integrations.requirement import require
from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.run_folder import parse_folder

require("accelerate", "1.15", extra="accelerate")

from accelerate.tracking import GeneralTracker, on_main_process, register_tracker_class  # noqa: E402  # `require`

FOLDER: Final = "trainwire"
"""The run's folder, within that of the project, in which other trackers write."""


class TrainwireTracker(GeneralTracker):
    """Publishes what `Accelerator.log` is given: `Accelerator(log_with="trainwire", project_dir="runs")`.

    The run's folder is `<project_dir>/<project_name>/trainwire`. The main process records. A second start in the folder
    begins the run anew; an option adds to it: `init_trackers("mine", init_kwargs={"trainwire": {"append": True}})`.

    Args:
        run_name: The folder of the run; `init_trackers` passes the name of the project.
        logging_dir: The folder of all runs; Accelerate passes its own.
        **options: Options of `trainwire.open_bus`.

    Raises:
        MissingExtraError: if Accelerate is not installed or too old; raised when this module is imported.
        OptionError: if an argument is invalid.
    """

    name = "trainwire"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str | PathLike[str], **options: Any) -> None:
        super().__init__()
        if not isinstance(run_name, str) or not run_name:
            raise OptionError(f"the name of the project is {run_name!r:.60}; it must be the name of a folder")
        self.run_folder = Path(parse_folder(logging_dir, "logging_dir"), run_name, FOLDER)
        self._options = options
        self._bus: EventBus | None = None

    @property
    def tracker(self) -> EventBus | None:
        """The bus, for tables, sounds and all else that a bus records; None in other processes."""
        return self._bus

    @on_main_process
    def start(self) -> None:
        """Open the bus; called by `init_trackers`.

        Raises:
            OptionError: if `open_bus` has no such option, or not of this value.
            RunInUseError: if another process records in this folder.
        """
        try:
            self._bus = open_bus(self.run_folder, **{"rank": 0, "world_size": 1, **self._options})
        except TypeError as error:
            raise OptionError(f"init_kwargs of trainwire: {error}") from None

    @on_main_process
    def store_init_configuration(self, values: Any) -> None:
        """Record the hyperparameters."""
        self._opened.hparams(values)

    @on_main_process
    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Publish scalars, and texts."""
        scalars = {name: value for name, value in values.items() if not isinstance(value, str)}
        if scalars:
            self._opened.log(scalars, step=step)
        for name, value in values.items():
            if isinstance(value, str):
                self._opened.text(name, value, step=step)

    @on_main_process
    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Publish images; several of one name are one picture."""
        for name, images in values.items():
            self._opened.image(name, images, step=step)

    @on_main_process
    def log_table(
        self,
        table_name: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Publish a table: columns and rows, or a data frame."""
        table = {"columns": columns, "rows": data} if dataframe is None else dataframe
        self._opened.table(table_name, table, step=step)

    @on_main_process
    def finish(self) -> None:
        """Close the bus; called by `end_training`."""
        if self._bus:
            self._bus.close()

    @property
    def _opened(self) -> EventBus:
        if self._bus is None:
            raise OptionError("TrainwireTracker: call start, or Accelerator.init_trackers, before recording")
        return self._bus


register_tracker_class(TrainwireTracker)
