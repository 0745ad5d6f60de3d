"""Tests of what needs torch."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors gain nothing from several threads, and the machine has few."""
    torch.set_num_threads(1)
