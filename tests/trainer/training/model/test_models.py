"""Models: checks, and weights on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_training import linear, make_trainer, train
from torch import nn

from trainwire.training.model.models import checked_model, count_parameters, device_of, load_model, place, save_model
from trainwire_protocol.errors import OptionError, UsageError


def test_a_saved_model_contains_only_its_weights(tmp_path: Path) -> None:
    """The file is a state_dict that loads with weights_only, and no temporary file is left."""
    model, other = linear(), nn.Linear(4, 2)
    save_model(model, tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt", weights_only=True).keys() == model.state_dict().keys()
    load_model(other, tmp_path / "model.pt")
    assert torch.equal(other.weight, model.weight)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_a_model_that_cannot_be_saved_leaves_the_old_file(tmp_path: Path) -> None:
    """If saving fails, the old file is unchanged, and no temporary file is left."""

    class Unsavable(nn.Linear):
        def state_dict(self, *_: object, **__: object) -> dict[str, object]:
            return {"lock": (value for value in ())}

    (tmp_path / "model.pt").write_bytes(b"old")
    with pytest.raises(UsageError, match=r"the model's state_dict\['lock'\] is a builtins.generator"):
        save_model(Unsavable(1, 1), tmp_path / "model.pt")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.pt", b"old")]


def test_a_model_that_cannot_be_trained_is_refused() -> None:
    """A model must be an nn.Module."""
    assert count_parameters(linear()) == 10
    assert checked_model(model := linear()) is model
    with pytest.raises(OptionError, match=r"model is .*; it must be a torch\.nn\.Module"):
        checked_model(lambda inputs: inputs)


def test_the_device_is_the_models_own_unless_given() -> None:
    """The error names a device that is not available."""
    assert device_of(linear(), None) == torch.device("cpu")
    assert device_of(linear(), "meta") == torch.device("meta")
    for wrong in ("gpu", "cuda:99", 1.5):
        with pytest.raises(OptionError, match="device is"):
            device_of(linear(), wrong)  # type: ignore[arg-type]  # that is the test


class Placed(nn.Linear):
    """A model that cannot be moved, such as one with 8-bit weights."""

    def __init__(self) -> None:
        super().__init__(4, 2)

    def to(self, *_: object, **__: object) -> Placed:
        raise ValueError("`.to` is not supported for quantized models")


def test_a_model_is_moved_only_where_it_is_not(tmp_path: Path) -> None:
    """One that is on its device, requested or not, is left alone; the error for one that cannot be moved says so."""
    for device in (None, "cpu"):
        assert train(tmp_path / str(device), trainer=make_trainer(Placed()), device=device).steps == 6
    with pytest.raises(OptionError, match=r"the model cannot be moved to meta: `\.to` is .* omit device="):
        train(tmp_path / "meta", trainer=make_trainer(Placed()), device="meta")
    place(model := linear(), torch.device("meta"), "model")
    assert model.weight.is_meta


def test_a_spread_model_stays_where_it_is(tmp_path: Path) -> None:
    """Batches go to the device of the first parameter that is loaded; another device is refused."""
    model = nn.Sequential(nn.Linear(4, 4, device="meta"), linear())
    model.hf_device_map = {"0": "disk", "1": "cpu"}  # type: ignore[assignment]  # what accelerate sets
    assert device_of(model, None) == torch.device("cpu")
    with pytest.raises(OptionError, match="device is cpu, but the model is spread over several devices: omit device="):
        train(tmp_path, trainer=make_trainer(model), device="cpu")


def test_a_loss_moves_to_the_device_of_the_model() -> None:
    """Its weights are moved, and a loss without any is not asked to move."""
    place(loss := nn.CrossEntropyLoss(weight=torch.ones(2)), torch.device("meta"), "loss")
    assert loss.weight is not None
    assert loss.weight.is_meta
