"""A run's folder: its name, its attempts, and the lease by which one trainer at a time holds it.

<run>/journal/run.json                          the run's name
<run>/journal/rank-<rank>/attempt-<attempt>/    one process's life: its lease and its journal
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from trainwire_protocol.errors import RunInUseError, UsageError
from trainwire_protocol.journal.files import create_atomically, write_atomically
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.wire import is_run_name

LEASE_SECONDS: Final = 30.0
"""A lease that was not renewed for so long holds no longer."""

RENEWAL_SECONDS: Final = 5.0
"""How often its owner renews it."""


@dataclass(frozen=True)
class Lease:
    """Who holds an attempt, and until when."""

    process: ProcessIdentity
    session: str
    renewed: float
    """Seconds since the epoch."""
    released: bool = False
    """Its owner has ended the attempt."""
    relay: bool = False
    """Its owner copies the attempt: when it is gone it may be started again, and the attempt is not over."""

    def is_over(self) -> bool:
        """Whether its attempt is known to be over."""
        return self.released or (not self.relay and self.process.is_gone())

    def holds(self) -> bool:
        """Whether a live trainer may be behind it."""
        if self.released or self.process.is_gone():
            return False
        return abs(time.time() - self.renewed) < LEASE_SECONDS


@dataclass(frozen=True)
class Attempt:
    """One process's life in a run."""

    run: str
    rank: int
    number: int
    folder: Path

    @property
    def lease_path(self) -> Path:
        """Where its lease stands."""
        return self.folder / "lease.json"

    def read_lease(self) -> Lease | None:
        """Its lease, or None if there is none that can be read."""
        try:
            fields = json.loads(self.lease_path.read_bytes())
            process = ProcessIdentity.from_fields(fields["process"])
            flags = {flag: fields.get(flag) is True for flag in ("released", "relay")}
            return Lease(process, str(fields["session"]), float(fields["renewed"]), **flags) if process else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def write_lease(self, lease: Lease) -> None:
        """Write or renew it."""
        fields = asdict(lease) | {"process": lease.process._asdict()}
        write_atomically(self.lease_path, json.dumps(fields).encode())

    def release(self, session: str) -> None:
        """Give the lease back: its owner has ended. A disk that does not take it leaves it to expire."""
        with contextlib.suppress(OSError):
            self.write_lease(Lease(ProcessIdentity.of_this_process(), session, time.time(), released=True))

    def abandon(self) -> None:
        """Remove it, if nothing was recorded in it."""
        with contextlib.suppress(OSError):
            self.lease_path.unlink(missing_ok=True)
            self.folder.rmdir()

    def is_superseded(self) -> bool:
        """Whether a later attempt has taken the run's folder over."""
        return self.folder.with_name(f"attempt-{self.number + 1}").exists()

    def is_held(self) -> bool:
        """Whether a live trainer may be recording it."""
        lease = self.read_lease()
        if lease is not None:
            return lease.holds()
        # Its owner may be between making the folder and writing the lease.
        return abs(time.time() - self.folder.stat().st_mtime) < LEASE_SECONDS


def journal_folder(run_folder: Path, rank: int) -> Path:
    """Where the attempts of one rank stand."""
    return run_folder / "journal" / f"rank-{rank}"


def list_attempts(run_folder: Path, rank: int) -> list[Attempt]:
    """The attempts of one rank, in their order; none if the folder holds no run of that rank."""
    folder = journal_folder(run_folder, rank)
    run = read_run_name(run_folder)
    numbers = sorted(
        int(path.name.removeprefix("attempt-")) for path in folder.glob("attempt-*") if path.name[8:].isdecimal()
    )
    return [Attempt(run, rank, number, folder / f"attempt-{number}") for number in numbers] if run else []


def list_ranks(run_folder: Path) -> list[int]:
    """The ranks that have recorded anything in a run's folder."""
    return sorted(
        int(path.name.removeprefix("rank-")) for path in run_folder.glob("journal/rank-*") if path.name[5:].isdecimal()
    )


def read_run_name(run_folder: Path) -> str | None:
    """The name of the run in a folder, or None if there is none."""
    try:
        name = json.loads((run_folder / "journal" / "run.json").read_bytes())["run"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return name if is_run_name(name) else None


def begin_attempt(run_folder: Path, rank: int, session: str, *, take_over: bool = False) -> Attempt:
    """Make the folder of the run's next attempt and take its lease.

    Raises:
        RunInUseError: a live trainer holds the run; `take_over` goes on all the same.
        UsageError: the folder cannot be written.
    """
    try:
        run = _name_run(run_folder)
        attempts = list_attempts(run_folder, rank)
        if attempts and not take_over and attempts[-1].is_held():
            raise _in_use(attempts[-1])
        number = attempts[-1].number + 1 if attempts else 0
        attempt = Attempt(run, rank, number, journal_folder(run_folder, rank) / f"attempt-{number}")
        attempt.folder.parent.mkdir(parents=True, exist_ok=True)
        _claim(attempt)
        attempt.write_lease(Lease(ProcessIdentity.of_this_process(), session, time.time()))
    except OSError as error:
        raise UsageError(
            f"the run's folder {run_folder} cannot be written ({error.strerror}): choose another, or free it"
        ) from error
    return attempt


def copy_attempt(run_folder: Path, run: str, rank: int, number: int) -> Attempt:
    """The folder of an attempt in a copy of a run; it is made, and those of attempts before it, if they are not there.

    Raises:
        UsageError: the folder holds another run.
        OSError: it cannot be written.
    """
    path = run_folder / "journal" / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    create_atomically(path, json.dumps({"run": run}).encode())
    if read_run_name(run_folder) != run:
        raise UsageError(f"{run_folder} holds run {read_run_name(run_folder)!r}, and run {run!r} is to be copied there")
    attempts = [Attempt(run, rank, n, journal_folder(run_folder, rank) / f"attempt-{n}") for n in range(number + 1)]
    for attempt in attempts:
        attempt.folder.mkdir(parents=True, exist_ok=True)
    return attempts[-1]


def _claim(attempt: Attempt) -> None:
    """Make the attempt's folder: of two processes that try at once, mkdir lets one through."""
    try:
        attempt.folder.mkdir()
    except FileExistsError:
        raise _in_use(attempt) from None


def _in_use(attempt: Attempt) -> RunInUseError:
    lease = attempt.read_lease()
    holder = f"process {lease.process.pid} on {lease.process.host}" if lease else "another process"
    run_folder = attempt.folder.parents[2]
    return RunInUseError(
        f"{run_folder} is in use: {holder} is recording attempt {attempt.number} of rank {attempt.rank}; "
        "stop it, choose another folder, or pass take_over=True"
    )


def _name_run(run_folder: Path) -> str:
    """The run's name, given to it now if it has none: the folder's name and eight random digits."""
    path = run_folder / "journal" / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", run_folder.resolve().name).strip("-.")[:64] or "run"
    create_atomically(path, json.dumps({"run": f"{stem}-{secrets.token_hex(4)}"}).encode())
    name = read_run_name(run_folder)
    if name is None:
        raise UsageError(f"{path} does not hold a run's name: restore it, or choose another folder")
    return name
