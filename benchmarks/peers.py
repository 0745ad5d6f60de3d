"""The cost of the same step with other loggers, if they are installed, and with Trainwire."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import zmq

import trainwire
from benchmarks.hot_path import add_scalars
from benchmarks.measurement import Log, Size, alternate, log_nothing, make_step, metrics, percentile, ratio_of_medians
from benchmarks.report import Result

STEPS_PER_BLOCK = 100


def peers(size: Size) -> Iterator[Result]:
    """A 200 µs step that logs ten scalars with each installed peer, relative to a step that logs nothing."""
    step, blocks = make_step(), size.of(40, 2)
    for name, (package, peer) in PEERS.items():
        if importlib.util.find_spec(package) is None:
            yield Result(f"the step with {name}", "not installed")
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), peer(Path(folder)) as log:
            base, theirs = alternate(step, [log_nothing, log], blocks, STEPS_PER_BLOCK)
        ratio = ratio_of_medians(theirs, base, STEPS_PER_BLOCK)
        tail = percentile(theirs, 0.99) / percentile(base, 0.99)
        yield Result(f"the step with {name}", f"{ratio:.2f}; 99th percentile {tail:.1f}")


@contextmanager
def with_trainwire(folder: Path) -> Iterator[Log]:
    with trainwire.open_bus(folder / "run") as bus:
        yield lambda step: bus.log(metrics(step), step=step)


@contextmanager
def with_logging(folder: Path) -> Iterator[Log]:
    logger, handler = logging.getLogger("benchmark"), logging.FileHandler(folder / "log")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False

    def log(step: int) -> None:
        for name, value in metrics(step).items():
            logger.info("%s %d %f", name, step, value)

    yield log
    logger.removeHandler(handler)
    handler.close()


@contextmanager
def with_zmq(_: Path) -> Iterator[Log]:
    """Send a message for each scalar to a subscriber that does not read."""
    with zmq.Context() as context, context.socket(zmq.PUB) as socket, context.socket(zmq.SUB) as subscriber:
        socket.linger = subscriber.linger = 0
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        subscriber.subscribe(b"")
        subscriber.connect(f"tcp://127.0.0.1:{port}")

        def log(step: int) -> None:
            for name, value in metrics(step).items():
                socket.send(f"{name} {step} {value}".encode())

        yield log


@contextmanager
def with_tensorboard(folder: Path) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    yield lambda step: add_scalars(writer, step)
    writer.close()


@contextmanager
def with_tensorboard_x(folder: Path) -> Iterator[Log]:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))
    yield lambda step: add_scalars(writer, step)
    writer.close()


@contextmanager
def with_csv_logger(folder: Path) -> Iterator[Log]:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(folder)
    yield lambda step: logger.log_metrics(metrics(step), step)
    logger.finalize("success")


@contextmanager
def with_wandb(folder: Path) -> Iterator[Log]:
    import wandb

    run = wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True))
    yield lambda step: run.log(metrics(step), step=step)
    run.finish()


@contextmanager
def with_mlflow(folder: Path) -> Iterator[Log]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    with mlflow.start_run():
        yield lambda step: mlflow.log_metrics(metrics(step), step=step)


@contextmanager
def with_trackio(folder: Path) -> Iterator[Log]:
    os.environ["TRACKIO_DIR"] = str(folder)
    import trackio

    run = trackio.init(project="benchmark", embed=False)
    yield lambda step: run.log(metrics(step), step=step)
    run.finish()


PEERS: dict[str, tuple[str, Callable[[Path], AbstractContextManager[Log]]]] = {
    "Trainwire": ("trainwire", with_trainwire),
    "raw ZeroMQ, a message for each scalar": ("zmq", with_zmq),
    "`logging` to a file": ("logging", with_logging),
    "`torch.utils.tensorboard`": ("torch", with_tensorboard),
    "tensorboardX": ("tensorboardX", with_tensorboard_x),
    "Lightning's CSVLogger": ("lightning", with_csv_logger),
    "wandb, offline": ("wandb", with_wandb),
    "trackio": ("trackio", with_trackio),
    "MLflow on SQLite": ("mlflow", with_mlflow),
}
"""Each with the package that it requires."""
