"""Each kind of notifier with a real receiver: an HTTP server, programs, a terminal."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.receiver import Receiver

from trainwire_protocol.errors import DeliveryRefusedError, MissingExtraError, OptionError
from trainwire_protocol.process import process_start_time
from trainwire_sinks.alerts.alert import Alert
from trainwire_sinks.alerts.notifiers import KINDS, AppriseUrl
from trainwire_sinks.alerts.notifiers.base import Notifier
from trainwire_sinks.alerts.notifiers.command import Command
from trainwire_sinks.alerts.notifiers.terminal import Terminal, format_line
from trainwire_sinks.alerts.notifiers.webhook import Webhook
from trainwire_sinks.alerts.rules_file import parse_rules

FIRED = Alert(
    id="run ü/0/0/loss/7", state="fired", rule="loss", kind="not-finite", severity="critical", message="loss is nan",
    walltime=1e9, fired_walltime=1e9, step=7, run="run ü", rank=0, attempt=0,
    details={"metric": "loss", "value": float("nan")}, notifiers=("it",),
)  # fmt: skip

APPRISE = pytest.mark.filterwarnings("ignore:'imghdr':DeprecationWarning", "ignore:.*:DeprecationWarning:apprise")
"""Warnings of modules that apprise imports."""


def send(notifier: Notifier, alert: Alert = FIRED, timeout: float = 20.0) -> None:
    asyncio.run(asyncio.wait_for(notifier.send(alert.key, alert.to_json()), timeout))


def identity(body: Any) -> Any:
    return body


def test_a_webhook_receives_the_whole_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alert is posted as JSON with its key, and with headers that may use the environment."""
    monkeypatch.setenv("HOOK_TOKEN", "secret")
    with Receiver(read=identity) as receiver:
        send(Webhook(url=f"http://127.0.0.1:{receiver.port}/a?b=c", headers=("Authorization: Bearer ${HOOK_TOKEN}",)))
        ((key, alert),) = receiver.taken
        assert key == "run%20%C3%BC/0/0/loss/7/fired"
        assert alert == FIRED.to_json()
        assert alert["details"] == {"metric": "loss", "value": "nan"}
        (headers,) = receiver.headers
        assert (headers["Authorization"], headers["Content-Type"]) == ("Bearer secret", "application/json")


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, OSError), (503, OSError), (404, OSError), (429, OSError), (302, OSError), (400, DeliveryRefusedError)],
)
def test_a_status_other_than_success_is_an_error(status: int, error: type[Exception]) -> None:
    """The alert is retried unless the server refuses it permanently; redirections are not followed."""
    with Receiver(lambda _: status, identity) as receiver:
        with pytest.raises(error, match=str(status)):
            send(Webhook(url=f"http://127.0.0.1:{receiver.port}/"))
        assert len(receiver.tried) == 1


@contextmanager
def raw_server(answer: bytes) -> Iterator[int]:
    """Run a server that answers one request with these bytes and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(20)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200, b"\0" * 70_000])
def test_an_answer_that_is_not_http_is_an_error(answer: bytes) -> None:
    """Any bytes that are not a valid answer raise OSError, after which the alert is retried."""
    with raw_server(answer) as port, pytest.raises(OSError):
        send(Webhook(url=f"http://127.0.0.1:{port}/"))


def test_a_webhook_without_a_server_is_an_error() -> None:
    """A refused connection raises OSError."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            send(Webhook(url=f"http://127.0.0.1:{unused.getsockname()[1]}/"))


def python(code: str, **settings: float) -> Command:
    return Command(command=(sys.executable, "-c", code), **settings)


def test_a_command_receives_the_alert_in_its_environment(tmp_path: Path) -> None:
    """The environment contains each field and the whole alert as JSON; no shell is involved."""
    code = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    send(Command(command=(sys.executable, "-c", code, str(tmp_path / "$x; y"))))
    found = {name: value for name, value in json.loads((tmp_path / "$x; y").read_text()).items() if "ALERT" in name}
    assert json.loads(found.pop("TRAINWIRE_ALERT_JSON")) == FIRED.to_json()
    assert found == {
        f"TRAINWIRE_ALERT_{name}": value for name, value in {
            "KEY": "run ü/0/0/loss/7/fired", "ID": "run ü/0/0/loss/7", "STATE": "fired", "RULE": "loss",
            "KIND": "not-finite", "SEVERITY": "critical", "MESSAGE": "loss is nan", "RUN": "run ü", "RANK": "0",
            "ATTEMPT": "0", "STEP": "7", "WALLTIME": "1000000000.0", "TIME": "2001-09-09T01:46:40.000+00:00",
        }.items()
    }  # fmt: skip


def test_a_command_that_fails_is_an_error() -> None:
    """The error contains the exit code and the last line of standard error."""
    with pytest.raises(OSError, match=r"the command exited with code 3: no phone"):
        send(python("import sys; print('a', file=sys.stderr); print('no phone', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(OSError, match=r"the command exited with code 1: nothing on standard error"):
        send(Command(command=("false",)))


def test_a_command_may_leave_a_process_behind(tmp_path: Path) -> None:
    """A program that succeeds has delivered the alert even if a child process keeps its standard error open."""
    returned = threading.Event()
    leave = "import subprocess; subprocess.Popen(['sleep', '30'], start_new_session=True)"
    threading.Thread(target=lambda: (send(python(leave)), returned.set()), daemon=True).start()
    assert returned.wait(20)


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """Cancelling a delivery kills the program and the processes that it has started."""
    code = (
        "import subprocess, sys, time; child = subprocess.Popen(['sleep', '60']); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid) + ' '); time.sleep(60)"
    )

    async def run() -> None:
        task = asyncio.create_task(python(code).send(FIRED.key, FIRED.to_json()))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith(" "):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while process_start_time(int((tmp_path / "pid").read_text())):
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_the_terminal_receives_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the time, severity, rule and message, in colors on a terminal; a closed stream is not retried."""
    send(Terminal())
    assert capsys.readouterr().err == "2001-09-09T01:46:40.000+00:00 CRITICAL loss: loss is nan\n"
    assert "\x1b[1;31mCRITICAL\x1b[0m loss:" in format_line(FIRED.to_json(), colors=True)
    assert "\x1b[32mCRITICAL\x1b[0m" in format_line(FIRED.cleared(1e9, 8).to_json(), colors=True)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with pytest.raises(DeliveryRefusedError, match="standard error is closed"):
        send(Terminal())


@APPRISE
def test_apprise_reaches_a_service() -> None:
    """A supported service receives the message with a title and a type that show the severity."""
    pytest.importorskip("apprise")
    with Receiver(read=identity) as receiver:
        notifier = AppriseUrl(url=f"json://127.0.0.1:{receiver.port}/")
        send(notifier)
        send(notifier, FIRED.cleared(1e9 + 5, 9))
        found = [(body["title"], body["message"], body["type"]) for _, body in receiver.taken]
        assert found == [
            ("critical: loss", "loss is nan", "failure"),
            ("critical: loss", "cleared after 5 s: loss is nan", "success"),
        ]
        receiver.answer = lambda _: 500
        with pytest.raises(OSError, match=r"apprise could not deliver the message: .*500"):
            send(notifier)


@APPRISE
def test_apprise_rejects_an_unsupported_url() -> None:
    """The error names the line but does not repeat the URL, which may contain a password."""
    pytest.importorskip("apprise")
    with pytest.raises(OptionError, match=r"^r\.toml:3: apprise does not support this url") as raised:
        parse_rules('[notifiers.x]\nkind = "apprise"\nurl = "nothing://hunter2"', "r.toml")
    assert "hunter2" not in str(raised.value)


def test_apprise_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without apprise the error names the extra that installs it."""
    monkeypatch.setattr("trainwire_sinks.alerts.notifiers.apprise_url.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'trainwire\[alerts\]'"):
        parse_rules('[notifiers.x]\nkind = "apprise"\nurl = "json://localhost"', "r.toml")


def test_every_kind_is_documented() -> None:
    """The four kinds have docstrings."""
    assert list(KINDS) == ["apprise", "webhook", "command", "terminal"]
    assert all(kind.__doc__ for kind in KINDS.values())
