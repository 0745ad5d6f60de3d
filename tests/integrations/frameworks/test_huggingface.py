"""The callback for the trainers of Hugging Face, in real trainings of Transformers' and TRL's."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from support.framework_runs import curves, hparams, lifecycle, loss_rows, run_sinks, scalars
from support.huggingface_models import gpt2
from support.huggingface_training import RaiseAt, make_trainer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from trainwire import open_bus
from trainwire.integrations.huggingface import TrainwireCallback
from trainwire_protocol.errors import OptionError, RunInUseError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training and an evaluation, with what two sinks write of it."""
    folder = tmp_path_factory.mktemp("huggingface")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "theirs"))
        best = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
        trainer = make_trainer(folder, TrainwireCallback(), report_to="tensorboard", **best)
    trainer.train()
    trainer.evaluate(metric_key_prefix="test")
    run_sinks(folder / "trainwire")
    return folder


@pytest.mark.timeout(330)
def test_tensorboard_shows_what_that_of_transformers_shows(trained: Path) -> None:
    """The sink tensorboard writes the scalars that the trainer's own TensorBoard shows, and no others."""
    ours, theirs = curves(trained / "trainwire/tensorboard/rank-0"), {}
    for folder in {path.parent for path in (trained / "theirs").rglob("*tfevents*")}:
        theirs |= curves(folder)
    assert {"train/loss", "train/learning_rate", "eval/loss", "test/loss", "train/train_loss"} <= theirs.keys()
    assert ours == theirs


@pytest.mark.timeout(330)
def test_the_loss_file_has_a_row_for_each_epoch(trained: Path) -> None:
    """A row has the evaluation of its epoch, and the trainer's summary is in the last row."""
    rows, events = loss_rows(trained / "trainwire"), scalars(trained / "trainwire", "eval/loss")
    assert [row["EPOCH"] for row in rows[:2]] == ["1", "2"]
    assert [float(row["EVAL_LOSS"]) for row in rows[:2]] == [value for _, value in events]
    assert [row["TRAIN_TRAIN_RUNTIME"] for row in rows[:2]] == ["", ""]


@pytest.mark.timeout(330)
def test_the_life_of_a_run(trained: Path) -> None:
    """The run has the arguments, the model's configuration, the epochs with the best score, and the checkpoints."""
    events = lifecycle(trained / "trainwire")
    names = [event.name for event in events if event.name not in ("run/marked", "checkpoint/saved")]
    epochs = ["epoch/started", "epoch/finished"] * 2
    assert names == ["run/started", *epochs, "run/finished", "run/resumed", "run/finished"]
    parameters: Any = hparams(trained / "trainwire")
    assert parameters["model"] == "BertForSequenceClassification"
    assert parameters["learning_rate"] == 1e-2
    assert parameters["model_config"]["hidden_size"] == 16
    losses = [value for _, value in scalars(trained / "trainwire", "eval/loss")]
    best = next(event.value["best"] for event in reversed(events) if event.name == "epoch/finished")
    assert best == {"metric": "eval/loss", "score": min(losses), "epoch": losses.index(min(losses)) + 1}
    saved = [event for event in events if event.name == "checkpoint/saved"]
    assert [(event.value["path"], event.step) for event in saved] == [("../checkpoint-6", 6), ("../checkpoint-12", 12)]


def test_a_training_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    """What was recorded after the checkpoint is superseded, and the run equals one without an interruption."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    make_trainer(whole, TrainwireCallback()).train()
    callback = TrainwireCallback()
    with pytest.raises(ValueError, match="bad batch"):
        make_trainer(cut, callback, RaiseAt(11, ValueError("bad batch"))).train()
    assert callback.bus is not None
    callback.bus.close(status="failed")
    make_trainer(cut, TrainwireCallback()).train(resume_from_checkpoint=True)
    resumed = next(event for event in lifecycle(cut / "trainwire") if event.name == "run/resumed")
    assert resumed.value["from_step"] == 6
    before, after = scalars(cut / "trainwire", "train/loss"), scalars(whole / "trainwire", "train/loss")
    assert [step for step, _ in before] == [2, 4, 6, 8, 10, 8, 10, 12]
    assert before[:3] + before[5:] == after


def test_a_checkpoint_of_a_training_without_the_callback(tmp_path: Path) -> None:
    """A training that resumes from one begins a run, and so does one that records in another folder."""
    make_trainer(tmp_path, num_train_epochs=1).train()
    make_trainer(tmp_path, TrainwireCallback()).train(resume_from_checkpoint=True)
    assert [step for step, _ in scalars(tmp_path / "trainwire", "train/loss")] == [8, 10, 12]
    make_trainer(tmp_path, TrainwireCallback(tmp_path / "other"), num_train_epochs=3).train(resume_from_checkpoint=True)
    assert [step for step, _ in scalars(tmp_path / "other", "train/loss")] == [14, 16, 18]


def test_a_second_training_of_a_callback_adds_to_the_run(tmp_path: Path) -> None:
    """So does an evaluation before it. A training with another callback begins the run anew."""
    trainer = make_trainer(tmp_path, TrainwireCallback(), num_train_epochs=1)
    trainer.evaluate()
    trainer.train()
    assert [step for step, _ in scalars(tmp_path / "trainwire", "eval/loss")] == [0, 6]
    resumed = [event for event in lifecycle(tmp_path / "trainwire") if event.name == "run/resumed"]
    assert [event.value["from"] is not None for event in resumed] == [True]
    make_trainer(tmp_path, TrainwireCallback(), num_train_epochs=1).train()
    resumed = [event for event in lifecycle(tmp_path / "trainwire") if event.name == "run/resumed"]
    assert resumed[-1].value["from"] is None


def test_the_run_of_a_training_that_has_failed(tmp_path: Path) -> None:
    """The trainer says nothing: the next training of the callback ends the run as failed."""
    callback = TrainwireCallback()
    with pytest.raises(ValueError, match="bad batch"):
        make_trainer(tmp_path, callback, RaiseAt(3, ValueError("bad batch"))).train()
    make_trainer(tmp_path, callback, num_train_epochs=1).train()
    ends = [event.name for event in lifecycle(tmp_path / "trainwire") if event.name in ("run/failed", "run/finished")]
    assert ends == ["run/failed", "run/finished"]


def test_the_states_of_callbacks_are_restored(tmp_path: Path) -> None:
    """The trainer makes a new callback from a checkpoint if it is asked to; the checkpoint stays plain JSON."""
    make_trainer(tmp_path, TrainwireCallback(tmp_path / "run"), num_train_epochs=1).train()
    state = json.loads((tmp_path / "checkpoint-6/trainer_state.json").read_text())["stateful_callbacks"]
    assert state["TrainwireCallback"]["args"] == {"run_folder": str(tmp_path / "run")}
    trainer = make_trainer(tmp_path, TrainwireCallback(), restore_callback_states_from_checkpoint=True)
    trainer.train(resume_from_checkpoint=True)
    assert [step for step, _ in scalars(tmp_path / "run", "train/loss")] == [2, 4, 6, 8, 10, 12]


def test_trl(tmp_path: Path) -> None:
    """The callback records what TRL's trainers log: here what its own TensorBoard shows of a fine-tuning."""
    tokens = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "good": 2, "bad": 3, "food": 4}, unk_token="<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", eos_token="<eos>")
    arguments = SFTConfig(
        output_dir=str(tmp_path), max_steps=4, logging_steps=1, per_device_train_batch_size=2, report_to="none",
        use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_list([{"text": "good food"}, {"text": "bad food"}] * 4)
    trainer = SFTTrainer(
        gpt2(), arguments, train_dataset=data, processing_class=tokenizer, callbacks=[TrainwireCallback()]
    )
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert {"mean_token_accuracy", "entropy"} <= history[0].keys()
    for name in history[0].keys() - {"step"}:
        recorded = scalars(tmp_path / "trainwire", f"train/{name}")
        assert recorded[: len(history)] == [(row["step"], row[name]) for row in history]


def test_bad_input(tmp_path: Path) -> None:
    """An invalid folder is refused at once, and a folder in use before the first step."""
    for folder in (3, "", b"\0"):
        with pytest.raises(OptionError, match="run_folder is"):
            TrainwireCallback(folder)  # type: ignore[arg-type]
    with open_bus(tmp_path / "trainwire", quiet=True), pytest.raises(RunInUseError):
        make_trainer(tmp_path, TrainwireCallback(), RaiseAt(0, AssertionError())).train()
    assert pickle.loads(pickle.dumps(TrainwireCallback(tmp_path))).run_folder == tmp_path
