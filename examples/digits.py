"""Train a small convolutional network on the 1,797 handwritten digits of scikit-learn.

    python examples/digits.py [RUN_FOLDER] [--epochs N] [--resume]

The run's folder then contains loss.tsv and training.log. To write TensorBoard's event files too:

    trainwire launch --sink tensorboard -- python examples/digits.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from trainwire import Corpus, ModelTrainer, Result
from trainwire.plugins.progress_bar import ProgressBar


def load_digits() -> Corpus:
    """Return images of 8 x 8 pixels from 0 to 1, split 70 : 10 : 20 with a fixed seed."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        sys.exit("examples/digits.py needs scikit-learn: pip install 'trainwire[demo]'")
    digits = datasets.load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    samples = TensorDataset(images, torch.tensor(digits.target))
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    return Corpus(
        train=Subset(samples, order[540:]),
        dev=Subset(samples, order[:180]),
        test=Subset(samples, order[180:540]),
    )


def make_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10),
    )  # fmt: skip


def train(folder: Path, epochs: int, *, resume: bool = False) -> Result:
    torch.manual_seed(1)
    trainer = ModelTrainer(
        make_network(),
        loss=nn.CrossEntropyLoss(),
        metrics={"accuracy": MulticlassAccuracy(10, average="micro")},
        plugins=[ProgressBar()],
    )
    return trainer.train(
        folder, corpus=load_digits(), optimizer=torch.optim.AdamW, learning_rate=0.002, max_epochs=epochs, seed=1,
        resume=resume,
    )  # fmt: skip


def next_folder() -> Path:
    """Return the first of runs/digits-1, runs/digits-2, … that does not exist."""
    number = 1
    while Path(f"runs/digits-{number}").exists():
        number += 1
    return Path(f"runs/digits-{number}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("folder", nargs="?", type=Path, help="the run's folder (default: a new folder, runs/digits-N)")
    parser.add_argument("--epochs", type=int, default=20, help="number of epochs (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="resume from the latest checkpoint in the folder")
    arguments = parser.parse_args()
    folder = arguments.folder or next_folder()
    result = train(folder, arguments.epochs, resume=arguments.resume)
    if result.test_score is not None:
        print(f"test accuracy {result.test_score:.2%} with the model of epoch {result.best_epoch}")
    print(f"the files of this run are in {folder}")
    print(f"to view it in TensorBoard, if the tensorboard sink was launched: tensorboard --logdir {folder.parent}")


if __name__ == "__main__":
    main()
