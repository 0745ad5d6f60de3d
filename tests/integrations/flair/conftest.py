"""Settings of the tests with flair."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Do not fail for warnings of flair's and of its requirements, which are theirs."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore"))
