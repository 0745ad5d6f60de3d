"""TensorBoard's pages in a browser, if one is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.browser import chromium, screenshot
from support.run_reader import wait_until
from support.tensorboard_server import shown, tensorboard

import trainwire
from trainwire_sinks.cli import app

MAGENTA = (255, 0, 255)
FIRST_RUN = (255, 112, 67)
"""The color that TensorBoard gives to the first run."""
MENU_WIDTH = 330
"""Pixels at the left that show the names of runs, in their colors."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start TensorBoard on a run with one curve and one image, and return its address."""
    chromium()
    folder = tmp_path_factory.mktemp("run")
    with trainwire.open_bus(folder) as bus:
        bus.image("picture", np.full((30, 40, 3), MAGENTA, np.uint8), step=1)
        for step in range(1, 50):
            bus.log({"train/loss": 1 / step}, step=step)
    assert app.run(["sink", "tensorboard", str(folder)]) == 0
    with tensorboard(folder / "tensorboard", load_fast=False) as found:
        wait_until(lambda: len(shown(found, "rank-0", "train/loss")) == 49, 30)
        yield found


@pytest.mark.parametrize(("page", "color", "pixels"), [("scalars", FIRST_RUN, 200), ("images", MAGENTA, 50_000)])
def test_a_page_shows_what_was_logged(address: str, tmp_path: Path, page: str, color: object, pixels: int) -> None:
    """The page shows the curve or the image: enough pixels have its color."""
    screenshot(f"{address}#{page}", tmp_path / "page.png", tmp_path / "profile")
    with Image.open(tmp_path / "page.png") as image:
        dashboard = np.asarray(image.convert("RGB"))[:, MENU_WIDTH:]
    assert (dashboard == color).all(axis=2).sum() > pixels
