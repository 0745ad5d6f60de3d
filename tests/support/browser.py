"""Pages as a browser shows them: Debian's `chromium` without a window."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def chromium() -> str:
    """The browser's command; skips the test if there is none."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    return found


def screenshot(address: str, path: Path, profile: Path) -> None:
    """Write what a page shows, once it has come to rest, as a PNG of 1200 by 900 pixels."""
    subprocess.run(
        [
            chromium(), "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1200,900",
            "--enable-unsafe-swiftshader", "--virtual-time-budget=20000", f"--user-data-dir={profile}",
            f"--screenshot={path}", address,
        ],
        check=True, capture_output=True, timeout=50,
    )  # fmt: skip
