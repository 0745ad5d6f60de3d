"""Settings of the tests with frameworks that have drop-ins."""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(trylast=True)  # after the settings of all tests, which remove most variables
def pytest_configure(config: pytest.Config) -> None:
    """Choose the backend of Keras, and do not fail for warnings of these frameworks, also when they are imported."""
    os.environ["KERAS_BACKEND"] = "torch"
    config.addinivalue_line("filterwarnings", "ignore")
