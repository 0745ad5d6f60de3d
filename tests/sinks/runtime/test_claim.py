from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainwire_protocol.errors import ClaimedError, OutputError
from trainwire_sinks.runtime.claim import Claim

HOLDER = """
import sys
from pathlib import Path
from trainwire_sinks.runtime.claim import Claim
claim = Claim(Path(sys.argv[1]), "loss-file", 0)
claim.take()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the claim on `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_claim_says_who_holds_the_first(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """While one process holds the claim, another one is told its pid."""
    with pytest.raises(ClaimedError, match=f"process {holder.pid} on"):
        Claim(tmp_path, "loss-file", 0).take()


def test_the_claim_of_a_killed_process_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """A claim ends with its holder, however that ends."""
    holder.kill()
    holder.wait()
    claim = Claim(tmp_path, "loss-file", 0)
    claim.take()
    claim.release()


def test_another_sink_or_rank_has_a_claim_of_its_own(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """Sinks and ranks do not get in each other's way."""
    for claim in (Claim(tmp_path, "log-file", 0), Claim(tmp_path, "loss-file", 1)):
        claim.take()
        claim.release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file in the folder's way is an error that says what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"loss-file in .*file.*--output"):
        Claim(tmp_path / "file", "loss-file", 0).take()
