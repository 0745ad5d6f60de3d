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
    """Start another process that holds the claim on `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_claim_names_the_holder_of_the_first(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """While one process holds the claim, the error in another names its pid."""
    with pytest.raises(ClaimedError, match=f"process {holder.pid} on"):
        Claim(tmp_path, "loss-file", 0).take()


def test_the_claim_of_a_killed_process_is_released(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """A claim ends with its holder, however the holder ends."""
    holder.kill()
    holder.wait()
    claim = Claim(tmp_path, "loss-file", 0)
    claim.take()
    claim.release()


def test_each_sink_and_rank_has_its_own_claim(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """The claims of other sinks and ranks are independent."""
    for claim in (Claim(tmp_path, "log-file", 0), Claim(tmp_path, "loss-file", 1)):
        claim.take()
        claim.release()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """A file in place of the folder raises an error that says what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"loss-file in .*file.*--output"):
        Claim(tmp_path / "file", "loss-file", 0).take()
