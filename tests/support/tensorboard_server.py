"""TensorBoard's own server, queried over HTTP."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest


def has_data_server() -> bool:
    """Whether TensorBoard's fast loader is available."""
    if find_spec("tensorboard_data_server") is None:
        return False
    return import_module("tensorboard_data_server").server_binary() is not None


_no_data_server = pytest.mark.skipif(not has_data_server(), reason="TensorBoard's data server is unavailable")

LOADERS: Final = [pytest.param(True, marks=_no_data_server, id="fast"), pytest.param(False, id="python")]
"""TensorBoard's two loaders, as values of `load_fast`: the data server, and Python."""


@contextmanager
def tensorboard(folder: Path, *, load_fast: bool) -> Iterator[str]:
    """Run TensorBoard's server on a folder with one of its two loaders; yields its address."""
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


def get(address: str, path: str, **parameters: object) -> Any:
    """Return the server's JSON response for a path."""
    return json.loads(get_bytes(address, path, **parameters)[0])


def get_bytes(address: str, path: str, **parameters: object) -> tuple[bytes, str]:
    """Return the server's response for a path and its content type; without parameters, the path may have a query."""
    query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
    with urllib.request.urlopen(f"{address}{path}{query}", timeout=30) as answer:
        return answer.read(), answer.headers.get_content_type()


def post(address: str, path: str, **body: object) -> Any:
    """Post a JSON body to a path of the server and return its JSON response."""
    request = urllib.request.Request(
        f"{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def shown(address: str, run: str, tag: str) -> dict[int, float]:
    """Return the points of a scalar that a run shows: its value at each step."""
    return dict(shown_scalars(address, run, tag).get(tag, ()))


def shown_scalars(address: str, run: str, tag: str | None = None) -> dict[str, list[tuple[int, float]]]:
    """Return the points of every scalar that a run shows, or of one: steps and values."""
    tags = [name for name in get(address, "data/plugin/scalars/tags").get(run, {}) if tag in (None, name)]
    points = {name: get(address, "data/plugin/scalars/scalars", run=run, tag=name) for name in tags}
    return {name: [(step, value) for _, step, value in points[name]] for name in tags}
