"""Starts the services of docker-compose.yml as processes of this machine.

Volumes are folders, and the names and ports of the services are ports of this host. The commands, the environment, the
order and the health checks are those of the file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from support.paths import ROOT
from support.ports import free_ports
from support.run_reader import wait_until

PORTS = ("5600", "5700", "6006")
"""Each is the first of two consecutive ports."""


def read_compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    """Return the file with its variables replaced by their value in the environment or their default."""
    text = (ROOT / name).read_text()
    return yaml.safe_load(re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: os.environ.get(found[1], found[2]), text))


class ComposeServices:
    """A context manager that starts the services in the order of the file, and ends them."""

    def __init__(self, folder: Path) -> None:
        self.services: dict[str, dict[str, Any]] = read_compose()["services"]
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.folder = folder
        self.ports = dict(zip(PORTS, free_ports(len(PORTS), neighbours=2), strict=True))

    def __enter__(self) -> Self:
        try:
            waiting = dict(self.services)
            while waiting:
                ready = [name for name in waiting if not waiting[name].get("depends_on", {}).keys() & waiting.keys()]
                for name in ready:
                    self._start(name, waiting.pop(name))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def volume(self, name: str) -> Path:
        """Return the folder used for a named volume."""
        path = self.folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def exit_code(self, name: str, seconds: float = 50.0) -> int:
        """Return the exit code of a service."""
        return self.processes[name].wait(seconds)

    def log(self, name: str) -> str:
        """Return what a service has printed."""
        return (self.folder / f"{name}.log").read_text()

    def is_healthy(self, name: str) -> bool:
        """Whether the health check of the service succeeds."""
        kind, *command = self.services[name]["healthcheck"]["test"]
        command = ["sh", "-c", command[0]] if kind == "CMD-SHELL" else command
        return self.run(name, command).returncode == 0

    def run(self, like: str, command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the environment of a service."""
        options = self._options(like)
        options["env"] |= environment
        command = self._command(like, command)
        return subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=40, **options)

    def _start(self, name: str, service: Mapping[str, Any]) -> None:
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_completed_successfully":
                assert self.exit_code(needed) == 0, self.log(needed)
            elif how["condition"] == "service_healthy":
                wait_until(lambda needed=needed: self.is_healthy(needed), 30)
        command, options = self._command(name, service["command"]), self._options(name)
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, **options)

    def _options(self, name: str) -> dict[str, Any]:
        given = self.services[name].get("environment", {})
        environment = {key: self._translated(name, value) for key, value in given.items()}
        environment |= {"TRAINWIRE_ADVERTISE": "127.0.0.1"} if "TRAINWIRE_ADVERTISE" in given else {}
        known = {key: value for key, value in os.environ.items() if not key.startswith("TRAINWIRE_")}
        path = f"{Path(sys.executable).parent}:{known['PATH']}"
        return {
            "env": known | {"PATH": path, "OMP_NUM_THREADS": "1"} | environment,
            "cwd": self.folder,
            "text": True,
            "stderr": subprocess.STDOUT,
            "stdin": subprocess.DEVNULL,
        }

    def _command(self, name: str, command: Sequence[str]) -> list[str]:
        return [self._translated(name, word) for word in command]

    def _translated(self, name: str, text: str) -> str:
        """What stands for a container's paths, hosts and ports on this machine."""
        mounts = {"/examples": ROOT / "examples"}
        for mount in self.services[name].get("volumes", ()):
            volume, path, *_ = mount.split(":")
            mounts[path] = self.volume(volume)
        ports = {str(int(port) + more): str(free + more) for port, free in self.ports.items() for more in (0, 1)}
        text = re.sub("|".join(ports), lambda found: ports[found[0]], text)
        for path, folder in mounts.items():
            text = re.sub(rf"(?<![\w.]){path}(?![\w-])", str(folder), text)
        text = re.sub(rf"(?<=//)({'|'.join(self.services)})(?=:)", "127.0.0.1", text)
        return text.replace("0.0.0.0", "127.0.0.1")
