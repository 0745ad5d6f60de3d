"""What replaces the options of other trainers."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from support.tiny_training import train

from trainwire import TrainingOptions
from trainwire.training.options.other_trainers import REPLACEMENTS
from trainwire_protocol.errors import OptionError

KNOWN = {option.name for option in dataclasses.fields(TrainingOptions)} | {
    "train", "dev", "test", "corpus", "resume", "options", "nothing",
}  # fmt: skip


def test_the_options_that_replace_others_exist() -> None:
    """An option at the beginning of a text is one of ours."""
    first = {name: re.match(r"(\w+)(?=$|=|[,;:] )", text) for name, text in REPLACEMENTS.items()}
    assert not {name: match[1] for name, match in first.items() if match and match[1] not in KNOWN}


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("gradient_accumulation_steps", "accumulate_batches"), ("val_check_interval", "evaluate_each_k_steps"),
        ("fast_dev_run", "trial_run"), ("limit_train_batches", "batches_per_epoch"), ("data_collator", "collate_fn"),
        ("torch_compile", "compile"), ("limit_val_batches", r"dev=Subset\(dev, range\(n\)\)"),
        ("gradient_checkpointing", r"gradient_checkpointing_enable\(\)"),
    ],
)  # fmt: skip
def test_options_of_other_trainers_are_explained(tmp_path: Path, name: str, replacement: str) -> None:
    """The error says what to use instead."""
    with pytest.raises(OptionError, match=rf"'{name}': .*{replacement}"):
        train(tmp_path, **{name: 1})
