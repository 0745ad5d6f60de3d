"""A training of Transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments

from support.huggingface_models import Texts, bert


class RaiseAt(TrainerCallback):
    """Raises an error at the beginning of a step."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise self.error


def make_trainer(folder: Path, *callbacks: TrainerCallback, **arguments: Any) -> Trainer:
    """Return a trainer for two epochs of six steps, with an evaluation and a checkpoint after each epoch."""
    arguments = {
        "output_dir": str(folder), "num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_steps": 2,
        "eval_strategy": "epoch", "save_strategy": "epoch", "learning_rate": 1e-2, "seed": 1, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, **arguments,
    }  # fmt: skip
    return Trainer(
        bert(), TrainingArguments(**arguments), train_dataset=Texts(22, 0), eval_dataset=Texts(10, 1),
        callbacks=list(callbacks),
    )  # fmt: skip
