"""TensorBoard's own server, asked over HTTP."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def tensorboard(folder: Path, *, load_fast: bool) -> Iterator[str]:
    """TensorBoard's own server on a folder, with one of its two loaders; gives its address."""
    server = subprocess.Popen(
        [
            sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0",
            "--host", "127.0.0.1", f"--load_fast={str(load_fast).lower()}", "--samples_per_plugin", "scalars=1000000",
            "--reload_interval", "1",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert server.stderr is not None
        address = next(found[0] for line in server.stderr if (found := re.findall(r"http://127\.0\.0\.1:\d+/", line)))
        yield address
    finally:
        server.terminate()
        server.wait(30)
        server.stderr.close()


def get(address: str, path: str, **parameters: str) -> Any:
    """What a path of the server answers, read as JSON."""
    with urllib.request.urlopen(f"{address}{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
        return json.load(answer)


def shown(address: str, run: str, tag: str) -> dict[int, float]:
    """The points of a scalar that a run shows: its value at each step."""
    if tag not in get(address, "data/plugin/scalars/tags").get(run, {}):
        return {}
    return {step: value for _, step, value in get(address, "data/plugin/scalars/scalars", run=run, tag=tag)}
