"""Pages as a browser shows them, by Debian's `chromium` in headless mode."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def chromium() -> str:
    """Return the browser's command; skip the test if it is not installed."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    return found


def screenshot(address: str, path: Path, profile: Path) -> None:
    """Save a screenshot of a page as a PNG of 1200 by 900 pixels, after it has finished loading."""
    subprocess.run(
        [
            chromium(), "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,900",
            "--enable-unsafe-swiftshader", "--virtual-time-budget=20000", f"--user-data-dir={profile}",
            f"--screenshot={path}", address,
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
