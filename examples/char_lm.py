"""Train a character-level language model on the source code of Python's standard library, and generate text with it.

    python examples/char_lm.py [RUN_FOLDER] [--steps N] [--kibibytes N]

The model is a transformer with two layers. It is trained in bf16 with gradient accumulation, and evaluated with an
exponential moving average of its weights. Interrupt the training with Ctrl-C, or kill it, and run the same command
again: it resumes from its latest checkpoint.
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
from trainwire.training.forward import Forward

WINDOW = 64
"""The context length, in characters."""


class Windows(Dataset[Any]):
    """Windows of a text, each with the same window shifted by one character as its target."""

    def __init__(self, text: Tensor) -> None:
        self.text = text

    def __len__(self) -> int:
        return (len(self.text) - 1) // WINDOW

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * WINDOW
        return self.text[start : start + WINDOW].long(), self.text[start + 1 : start + WINDOW + 1].long()


class LanguageModel(nn.Module):
    """Predicts the next character at each position of a text."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.characters = nn.Embedding(128, width)
        self.positions = nn.Embedding(WINDOW, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.Linear(width, 128)

    def forward(self, text: Tensor) -> Tensor:
        length = text.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=text.device)
        hidden = self.characters(text) + self.positions(torch.arange(length, device=text.device))
        output: Tensor = self.decoder(self.layers(hidden, mask=mask, is_causal=True))
        return output


class LanguageTrainer(ModelTrainer):
    """Computes the loss over all positions of a batch."""

    def forward(self, batch: Any) -> Forward:
        text, target = batch
        output = self.model(text)
        return Forward(nn.functional.cross_entropy(output.flatten(0, 1), target.flatten()), output, target)


def load_source(kibibytes: int) -> Corpus:
    """Return the first kibibytes of the standard library's modules as ASCII, split 90 : 10 into train and dev."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    characters = torch.frombuffer(bytearray(text.encode("ascii", "ignore")), dtype=torch.uint8)[: 1024 * kibibytes]
    end = len(characters) * 9 // 10
    return Corpus(Windows(characters[:end]), Windows(characters[end:]))


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
def generate(model: nn.Module, prompt: str, length: int = 200) -> str:
    """Return the prompt with `length` characters sampled from the model."""
    model.eval()
    text = list(prompt.encode("ascii"))
    for _ in range(length):
        logits = model(torch.tensor([text[-WINDOW:]]))[0, -1]
        text.append(int(torch.multinomial((logits / 0.7).softmax(0), 1)))
    return bytes(text).decode("ascii")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train a small language model on the source code of Python's standard library."
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs/char_lm"), help="the run's folder (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=600, help="number of optimizer updates (default: %(default)s)")
    parser.add_argument(
        "--kibibytes", type=int, default=1024, help="amount of source code to train on (default: %(default)s)"
    )
    arguments = parser.parse_args()
    result, model = train(arguments.folder, arguments.steps, arguments.kibibytes)
    print(f"{result.status} after {result.steps} steps: dev loss {result.history[-1]['dev/loss']:.3f}")
    print(generate(model, "def "))


if __name__ == "__main__":
    main()
