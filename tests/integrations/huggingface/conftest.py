"""Settings of the tests with the libraries of Hugging Face."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Do not fail for warnings of these libraries, which are theirs."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore"))
