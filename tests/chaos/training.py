"""The run that is disturbed: its values are functions of the step, so that the correct output is known."""

from __future__ import annotations

import json
import time
from pathlib import Path

import trainwire
from trainwire_protocol.journal.files import write_atomically

STEPS_PER_EPOCH = 50
IMAGE = {"data": bytes(2000), "format": "png"}


def loss_at(step: int) -> float:
    """Return the value of `train/loss` at a step."""
    return 1.0 / step


def train(folder: Path, steps: int, bind: str | None) -> None:
    """Train to the end, from the checkpoint if there is one, or else from the beginning."""
    checkpoint = folder / "checkpoint.json"
    saved = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "bus": None}
    bus = trainwire.open_bus(folder, state=saved["bus"], bind=bind, hparams={"steps": steps})
    for step in range(saved["step"] + 1, steps + 1):
        bus.log({"train/loss": loss_at(step), "train/norm": float(step)}, step=step)
        if step % 7 == 0:
            bus.text("note", f"step {step}")
        if step % 20 == 0:
            bus.publish("image", IMAGE, "image")
        if step % STEPS_PER_EPOCH == 0:
            metrics = {"train/loss": loss_at(step), "dev/score": float(step)}
            bus.lifecycle("epoch/finished", epoch=step // STEPS_PER_EPOCH, metrics=metrics)
        if step % 40 == 0:
            state = bus.state_dict()
            if bus.wait_until_journaled(state, 10):
                write_atomically(checkpoint, json.dumps({"step": step, "bus": state}).encode())
        time.sleep(0.0005)
    bus.close(timeout=5)


def append(folder: Path, bind: str | None) -> None:
    """Add a score to the run, whether it has finished or was killed."""
    with trainwire.open_bus(folder, append=True, bind=bind) as bus:
        bus.log({"test/score": 1.0})
