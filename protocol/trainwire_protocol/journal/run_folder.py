"""A run's folder: the run's name, its attempts, and the lease that lets one trainer at a time write them.

<run>/journal/run.json                          the run's name
<run>/journal/rank-<rank>/attempt-<attempt>/    one attempt: its lease and its journal
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from trainwire_protocol.errors import OptionError, RunInUseError, UsageError
from trainwire_protocol.journal.files import create_atomically, read_json_map, write_atomically
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.wire import is_run_name

LEASE_SECONDS: Final = 30.0
"""Time after which a lease expires unless it is renewed."""

RENEWAL_SECONDS: Final = 5.0
"""Time between two renewals by the owner."""


@dataclass(frozen=True)
class Lease:
    """The owner of an attempt, and when it renewed its claim."""

    process: ProcessIdentity
    session: str
    renewed: float
    """Seconds since the epoch."""
    released: bool = False
    """The owner has ended the attempt."""
    relay: bool = False
    """The owner is a relay. If it dies it may be started again, so its end is not that of the attempt."""
    copied_from: str | None = None
    """Where the owner records if the lease was read in a copy of that folder, which the owner never writes."""

    def is_over(self) -> bool:
        """Return whether the attempt is known to be over."""
        return self.released or self.copied_from is not None or (not self.relay and self.process.is_gone())

    def holds(self) -> bool:
        """Return whether the owner may be alive, and writes this folder."""
        if self.released or self.copied_from is not None or self.process.is_gone():
            return False
        return abs(time.time() - self.renewed) < LEASE_SECONDS


@dataclass(frozen=True)
class Attempt:
    """One attempt of a rank at a run, recorded by one process."""

    run: str
    rank: int
    number: int
    folder: Path

    @property
    def run_folder(self) -> Path:
        """The run's folder."""
        return self.folder.parents[2]

    @property
    def lease_path(self) -> Path:
        """The path of the lease."""
        return self.folder / "lease.json"

    def read_lease(self) -> Lease | None:
        """Return the lease, or None if it is missing or invalid."""
        try:
            fields = read_json_map(self.lease_path)
            process = ProcessIdentity.from_fields(fields["process"])
            released, relay = (fields.get(flag) is True for flag in ("released", "relay"))
            session, renewed = str(fields["session"]), float(fields["renewed"])
            if process is None:
                return None
            return Lease(process, session, renewed, released, relay, self._copied_from(process, fields.get("folder")))
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            return None

    def write_lease(self, lease: Lease) -> None:
        """Write the lease.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = {"path": str(self.run_folder.resolve()), "inode": self.folder.stat().st_ino}
        fields = asdict(lease) | {"process": lease.process._asdict(), "folder": folder}
        del fields["copied_from"]
        write_atomically(self.lease_path, json.dumps(fields).encode())

    def renew_lease(self, session: str) -> None:
        """Write or renew the lease, as its owner.

        Raises:
            OSError: the folder cannot be written.
        """
        self.write_lease(Lease(ProcessIdentity.of_this_process(), session, time.time()))

    def _copied_from(self, process: ProcessIdentity, origin: object) -> str | None:
        """Return the run's folder for which a lease was written if this one is a copy of it.

        A moved folder has another path but the same inode; a copy differs in both. On another host neither is known.
        """
        if not isinstance(origin, dict) or not process.is_on_this_host():
            return None
        inode, path = origin.get("inode"), origin.get("path")
        is_here = inode == self.folder.stat().st_ino or path == str(self.run_folder.resolve())
        return None if is_here else str(path)

    def release(self, session: str) -> None:
        """Release the lease, because its owner has ended. If it cannot be written, it expires."""
        with contextlib.suppress(OSError):
            self.write_lease(Lease(ProcessIdentity.of_this_process(), session, time.time(), released=True))

    def abandon(self) -> None:
        """Remove the attempt if nothing was recorded in it."""
        with contextlib.suppress(OSError):
            self.lease_path.unlink(missing_ok=True)
            self.folder.rmdir()

    def is_superseded(self) -> bool:
        """Return whether a later attempt has taken over the run's folder."""
        return self.folder.with_name(f"attempt-{self.number + 1}").exists()

    def is_held(self) -> bool:
        """Return whether a live trainer may be recording the attempt.

        Raises:
            OSError: the folder cannot be read.
        """
        lease = self.read_lease()
        if lease is not None:
            return lease.holds()
        # The owner may have created the folder and not written the lease yet.
        return abs(time.time() - self.folder.stat().st_mtime) < LEASE_SECONDS


def parse_folder(value: object, name: str = "folder") -> Path:
    """Return the absolute path of a folder, as a user names it: `~` is the home folder.

    Args:
        value: the path, of any type that Python accepts as a path.
        name: the parameter, for the error message.

    Raises:
        OptionError: it is not a path, or one that no file system accepts.
    """
    try:
        text = os.fsdecode(value)  # type: ignore[arg-type]  # hence TypeError below
        if text and b"\0" not in os.fsencode(text):
            return expand_home(text).absolute()
    except (TypeError, ValueError):
        pass
    except FileNotFoundError:
        raise OptionError(f"{name} is {value!r:.100}, but the working directory has been deleted") from None
    raise OptionError(f"{name} is {value!r:.100}; it must be the path of a folder, such as 'runs/mine'")


def expand_home(text: str) -> Path:
    """Return a path; `~` and what begins with `~/` is in the home folder, as in a shell."""
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)


def journal_folder(run_folder: Path, rank: int) -> Path:
    """Return the folder that contains the attempts of one rank."""
    return run_folder / "journal" / f"rank-{rank}"


def list_attempts(run_folder: Path, rank: int) -> list[Attempt]:
    """Return the attempts of one rank, in order; an empty list if the folder contains no run of that rank."""
    run = read_run_name(run_folder)
    if run is None:
        return []
    folder = journal_folder(run_folder, rank)
    return [Attempt(run, rank, number, folder / f"attempt-{number}") for number in _numbers(folder, "attempt-")]


def list_ranks(run_folder: Path) -> list[int]:
    """Return the ranks that have recorded into a run's folder, in order."""
    return _numbers(run_folder / "journal", "rank-")


def _numbers(folder: Path, prefix: str) -> list[int]:
    """Return the numbers of the entries that are named by a prefix and a number, in order."""
    suffixes = (path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*"))
    return sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())


def read_run_name(run_folder: Path) -> str | None:
    """Return the name of the run in a folder, or None if the folder contains no run."""
    try:
        name = read_json_map(name_path(run_folder))["run"]
    except (OSError, ValueError, KeyError):
        return None
    return name if is_run_name(name) else None


def name_path(run_folder: Path) -> Path:
    """Return the path of the file that contains the run's name."""
    return run_folder / "journal" / "run.json"


def name_run(run_folder: Path, run: str) -> None:
    """Write the run's name, unless the folder has a run; the folder of the journal exists.

    Raises:
        OSError: the folder cannot be written.
    """
    create_atomically(name_path(run_folder), json.dumps({"run": run}).encode())


def begin_attempt(run_folder: Path, rank: int, session: str, *, take_over: bool = False) -> Attempt:
    """Create the folder of the next attempt of a run, and take its lease.

    Args:
        run_folder: the run's folder, which is created if it does not exist.
        rank: the rank of this process.
        session: a random identifier of this attempt's process.
        take_over: begin even if a live trainer holds the run.

    Raises:
        RunInUseError: a live trainer holds the run.
        UsageError: the folder cannot be written.
    """
    try:
        run = _make_run(run_folder)
        attempts = list_attempts(run_folder, rank)
        if attempts and not take_over and attempts[-1].is_held():
            raise _in_use(attempts[-1])
        number = attempts[-1].number + 1 if attempts else 0
        attempt = Attempt(run, rank, number, journal_folder(run_folder, rank) / f"attempt-{number}")
        attempt.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            attempt.folder.mkdir()
        except FileExistsError:  # another process was faster
            raise _in_use(attempt) from None
        attempt.renew_lease(session)
    except OSError as error:
        raise UsageError(
            f"the run folder {run_folder} cannot be written ({error.strerror}): choose another folder, or free space"
        ) from error
    return attempt


def _make_run(run_folder: Path) -> str:
    """Return the run's name. A new run is named after its folder, with eight random hexadecimal digits."""
    path = name_path(run_folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", run_folder.resolve().name).strip("-.")[:64] or "run"
    name_run(run_folder, f"{stem}-{secrets.token_hex(4)}")
    name = read_run_name(run_folder)
    if name is None:
        raise UsageError(f"{path} does not contain a run's name: restore it or choose another folder")
    return name


def _in_use(attempt: Attempt) -> RunInUseError:
    lease = attempt.read_lease()
    holder = f"process {lease.process.pid} on {lease.process.host}" if lease else "another process"
    advice = "stop it, choose another folder, or pass take_over=True"
    if lease and lease.process == ProcessIdentity.of_this_process():
        holder, advice = f"{holder}, which is this one,", "close that bus first (bus.close()), or choose another folder"
    elif lease and lease.process.is_ancestor():
        holder = f"{holder}, which has started this one,"
        advice = (
            "give this process a folder or rank of its own. If multiprocessing or a DataLoader has started it, it has "
            "run the main script again: put open_bus under `if __name__ == '__main__':`"
        )
    run_folder, number, rank = attempt.run_folder, attempt.number, attempt.rank
    return RunInUseError(f"{run_folder} is in use: {holder} is recording attempt {number} of rank {rank}; {advice}")


def copy_attempt(run_folder: Path, run: str, rank: int, number: int) -> Attempt:
    """Return an attempt in a copy of a run, after creating its folder and those of the attempts before it.

    Raises:
        UsageError: the folder contains another run.
        OSError: the folder cannot be written.
    """
    name_path(run_folder).parent.mkdir(parents=True, exist_ok=True)
    name_run(run_folder, run)
    existing = read_run_name(run_folder)
    if existing != run:
        raise UsageError(f"run {run!r} cannot be copied to {run_folder}, which contains run {existing!r}")
    attempts = [Attempt(run, rank, n, journal_folder(run_folder, rank) / f"attempt-{n}") for n in range(number + 1)]
    for attempt in attempts:
        attempt.folder.mkdir(parents=True, exist_ok=True)
    return attempts[-1]
