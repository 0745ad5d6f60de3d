"""Several trainings at once in one process."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path

import pytest
from support.run_reader import read_events
from support.tiny_training import make_trainer, points, train

from trainwire.plugins.checkpoints import Checkpoints
from trainwire.training.hooks.payloads import AfterTrainingBatch

logger = logging.getLogger("trainwire")


def messages(folder: Path) -> list[str]:
    return [event.value["message"] for event in read_events(folder) if event.type == "log"]


def test_trainings_in_threads_have_their_own_logs(tmp_path: Path) -> None:
    """Each has its own lines and no others, even after the other one has ended; the logger's level is restored."""
    together = threading.Barrier(2, timeout=60)
    level = logger.level

    def work(name: str, epochs: int) -> None:
        trainer = make_trainer()

        @trainer.on("after_training_batch")
        def speak(batch: AfterTrainingBatch) -> None:
            if batch.epoch == 1:
                together.wait()
            logger.info("%s at step %d", name, batch.step)

        train(tmp_path / name, trainer=trainer, train=points(48), max_epochs=epochs)

    threads = [threading.Thread(target=work, args=arguments) for arguments in (("short", 1), ("long", 4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for name, steps in (("short", 3), ("long", 12)):
        spoken = [message for message in messages(tmp_path / name) if " at step " in message]
        assert spoken == [f"{name} at step {number}" for number in range(1, steps + 1)]
        progress = [message for message in messages(tmp_path / name) if re.match(r"epoch \d+: batch", message)]
        assert len(progress) == steps
    assert logger.level == level


def test_a_training_inside_another_has_its_own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of its threads are its own as well; afterwards, those of the outer one are recorded again."""
    outer, inner = make_trainer(), make_trainer()

    def fail(*_: object) -> None:
        raise OSError("disk on fire")

    @outer.on("after_training_epoch", once=1)
    def probe(epoch: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("trainwire.checkpointing.writer.write_data", fail)
            train(tmp_path / "inner", Checkpoints(steps=3), trainer=inner, train=points(48), max_epochs=3)
        logger.info("the probe is fitted")

    train(tmp_path / "outer", trainer=outer, train=points(32), max_epochs=2)
    own = messages(tmp_path / "outer")
    assert "the probe is fitted" in own
    assert [message for message in own if "batch" in message and "/3" in message] == []
    assert sum(message.startswith("epoch 2: batch") for message in own) == 2
    assert not any("could not be written" in message for message in own)
    assert any("could not be written" in message for message in messages(tmp_path / "inner"))
    assert sum(message.startswith("epoch 3: batch") for message in messages(tmp_path / "inner")) == 3
