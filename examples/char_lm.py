"""Train a small language model, letter by letter, on the source of Python's standard library; then let it write.

    python examples/char_lm.py [RUN_FOLDER] [--steps N] [--kibibytes N]

It is a transformer of two layers, trained in bf16, with gradients added up over chunks of a batch, and evaluated with a
moving average of its weights. Stop it with Ctrl-C, or kill it, and start it again with the same folder: it goes on
where it was.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainwire import Corpus, ModelTrainer, Result
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.ema import EMA
from trainwire.plugins.progress_bar import ProgressBar
from trainwire.training.step import Forward

WINDOW = 64
"""Letters that the model looks back at."""


class Windows(Dataset[Any]):
    """Pieces of a text, each with the same piece one letter later."""

    def __init__(self, text: Tensor) -> None:
        self.text = text

    def __len__(self) -> int:
        return (len(self.text) - 1) // WINDOW

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * WINDOW
        return self.text[start : start + WINDOW].long(), self.text[start + 1 : start + WINDOW + 1].long()


class LanguageModel(nn.Module):
    """Says for each letter of a text which one may come next."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.letters = nn.Embedding(128, width)
        self.places = nn.Embedding(WINDOW, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.Linear(width, 128)

    def forward(self, text: Tensor) -> Tensor:
        length = text.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=text.device)
        hidden = self.letters(text) + self.places(torch.arange(length, device=text.device))
        output: Tensor = self.decoder(self.layers(hidden, mask=mask, is_causal=True))
        return output


class LanguageTrainer(ModelTrainer):
    """Every letter of a batch is one to predict."""

    def forward(self, batch: Any) -> Forward:
        text, target = batch
        output = self.model(text)
        return Forward(nn.functional.cross_entropy(output.flatten(0, 1), target.flatten()), output, target)


def load_source(kibibytes: int) -> Corpus:
    """The beginning of the standard library's modules, in ASCII: nine tenths to train on, one to choose by."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    letters = torch.frombuffer(bytearray(text.encode("ascii", "ignore")), dtype=torch.uint8)[: 1024 * kibibytes]
    end = len(letters) * 9 // 10
    return Corpus(Windows(letters[:end]), Windows(letters[end:]))


def train(folder: Path, steps: int, kibibytes: int) -> tuple[Result, nn.Module]:
    torch.manual_seed(1)
    model = LanguageModel()
    result = LanguageTrainer(model, plugins=[ProgressBar()]).fine_tune(
        folder,
        corpus=load_source(kibibytes),
        plugins=[EMA(0.99, warm_up=True), Checkpoints(steps=20)],
        resume=True,
        learning_rate=0.003,
        mini_batch_size=32,
        mini_batch_chunk_size=16,
        eval_batch_size=256,
        max_epochs=1000,
        max_steps=steps,
        max_grad_norm=1.0,
        use_amp="bf16",
        seed=1,
    )
    return result, model


@torch.no_grad()
def write(model: nn.Module, beginning: str, length: int = 200) -> str:
    """Go on from a beginning, letter by letter."""
    model.eval()
    text = list(beginning.encode("ascii"))
    for _ in range(length):
        scores = model(torch.tensor([text[-WINDOW:]]))[0, -1]
        text.append(int(torch.multinomial((scores / 0.7).softmax(0), 1)))
    return bytes(text).decode("ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small language model on Python's own source.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/char_lm"), help="the run's folder")
    parser.add_argument("--steps", type=int, default=600, help="updates")
    parser.add_argument("--kibibytes", type=int, default=1024, help="how much of the source is read")
    arguments = parser.parse_args()
    result, model = train(arguments.folder, arguments.steps, arguments.kibibytes)
    print(f"{result.status} after {result.steps} steps: dev loss {result.history[-1]['dev/loss']:.3f}")
    print(write(model, "def "))


if __name__ == "__main__":
    main()
