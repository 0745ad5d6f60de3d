"""Scripts that train in several processes, as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.paths import TESTS


def start_torchrun(script: str, folder: Path, *more: object, processes: int = 2) -> subprocess.Popen[str]:
    """Run a script in two processes on the CPU. Its arguments are a folder, that of the tests, and `more`."""
    path = folder.with_name(f"{folder.name}.py")
    path.write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command = [*launcher, *map(str, (path, folder, TESTS, *more))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish_torchrun(process: subprocess.Popen[str], seconds: float = 150) -> tuple[int, str]:
    """Wait for the end of all processes; return the exit code, and what they have written, errors last."""
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output + errors


def torchrun(script: str, folder: Path, *more: object, seconds: float = 150, processes: int = 2) -> str:
    """Run a script in two processes, check that they succeed, and return what they have written."""
    code, output = finish_torchrun(start_torchrun(script, folder, *more, processes=processes), seconds)
    assert code == 0, output
    return output
