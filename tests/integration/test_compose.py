"""docker-compose.yml: its contents, and its services working together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import tensorboard_server
from support.compose_services import ROOT, ComposeServices, read_compose
from support.run_reader import read_events, wait_until

from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.transport.connection import read_connection

FILES = ("docker-compose.yml", "docker-compose.secrets.yml")
SINKS = ("loss-file", "log-file", "tensorboard", "alerts")


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_valid(name: str) -> None:
    """The file conforms to the JSON schema of the Compose specification, which check-jsonschema contains."""
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", ROOT / name]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", read_compose()["services"])
def test_services_have_minimal_privileges(name: str) -> None:
    """No service runs as root, writes outside its volumes, or opens a port to other hosts."""
    service = read_compose()["services"][name]
    assert service["user"] == "1000:1000"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_every_long_running_service_is_supervised() -> None:
    """Every service except `keys` has a health check and a restart policy."""
    for name, service in read_compose()["services"].items():
        assert name == "keys" or ("healthcheck" in service and "restart" in service), name


def test_mounted_volumes_exist() -> None:
    """Every volume that a service mounts is declared, and its folder exists in the image."""
    compose = read_compose()
    for service in compose["services"].values():
        dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
        assert "USER 1000:1000" in dockerfile
        for mount in service["volumes"]:
            volume, path, *_ = mount.split(":")
            assert volume in compose["volumes"]
            assert f" {path}" in dockerfile


def test_the_secrets_file_replaces_generated_keys() -> None:
    """The override gives its secrets to the services that read a key, and names only existing services."""
    override, services = read_compose(FILES[1]), read_compose()["services"]
    assert set(override["services"]) <= set(services)
    for name, service in override["services"].items():
        given = [secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", ())]
        assert set(given) <= set(override["secrets"])
        assert name == "keys" or given
        assert service.get("environment", {}).keys() <= services[name].get("environment", {}).keys()


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeServices]:
    """Run all services with a training of one epoch."""
    pytest.importorskip("sklearn", reason="the example needs scikit-learn's images")
    patch = pytest.MonkeyPatch()
    patch.setenv("EPOCHS", "1")
    with patch.context(), ComposeServices(tmp_path_factory.mktemp("composed")) as services:
        yield services
    patch.undo()


def wait_until_complete(composed: ComposeServices) -> None:
    """Check the trainer's health while it trains, then wait until it and the sinks have ended."""
    wait_until(lambda: composed.is_healthy("relay"), 120)
    assert composed.is_healthy("trainer") or read_events(composed.volume("runs") / "digits")[-1].name == "run/finished"
    for name in ("trainer", *SINKS):
        assert composed.exit_code(name, 60) == 0, composed.log(name)


@pytest.mark.timeout(300)
def test_the_services_are_healthy_and_complete(composed: ComposeServices) -> None:
    """The health checks pass, and at the end of the training the sinks have written everything."""
    wait_until_complete(composed)
    assert all(composed.is_healthy(name) for name in SINKS)
    outputs = composed.volume("outputs")
    assert len((outputs / "loss.tsv").read_text().splitlines()) == 2
    assert "run finished" in (outputs / "training.log").read_text()
    alerts = [json.loads(line) for line in (outputs / "alerts.jsonl").read_text().splitlines()]
    assert [alert["rule"] for alert in alerts] == ["finished"]
    assert _copy(composed) and all(report.is_whole and report.ending for report in verify_run(_copy(composed)))


@pytest.mark.timeout(300)
def test_the_page_shows_the_run(composed: ComposeServices) -> None:
    """TensorBoard's page is healthy and shows the losses of the run."""
    wait_until_complete(composed)
    wait_until(lambda: composed.is_healthy("tensorboard-page"), 40)
    address = f"http://127.0.0.1:{composed.ports['6006']}/"
    wait_until(lambda: tensorboard_server.shown(address, "rank-0", "train/loss"), 40)


@pytest.mark.timeout(300)
def test_all_connections_use_tcp_with_keys(composed: ComposeServices) -> None:
    """Trainer and relay use TCP with CURVE; a reader's key allows reading but no commands, another key nothing."""
    wait_until_complete(composed)
    for folder in (composed.volume("runs") / "digits", _copy(composed)):
        connection = read_connection(folder / "connection-rank0.json")
        assert connection.keys and connection.publish.startswith("tcp://")
    (composed.folder / "stranger").mkdir()
    address = f"tcp://127.0.0.1:{composed.ports['5700'] + 1}"
    keys = {path.name: path.stat().st_mode & 0o777 for path in composed.volume("reader-keys").iterdir()}
    assert keys["reader.key"] == 0o600
    assert composed.run("loss-file", ["trainwire", "ping", address]).returncode == 0
    assert "read" in composed.run("loss-file", ["trainwire", "send", address, "stop"]).stdout
    stranger = composed.folder / "stranger" / "own"
    server = str(composed.volume("relay-keys") / "relay.pub")
    composed.run("keys", ["trainwire", "keygen", str(stranger), "--server", server])
    refused = composed.run("loss-file", ["trainwire", "ping", address], TRAINWIRE_KEY=f"{stranger}.key")
    assert (refused.returncode, "not on its list" in refused.stdout) == (5, True)


@pytest.mark.timeout(300)
def test_a_restart_repeats_nothing(composed: ComposeServices) -> None:
    """After a restart a finished trainer does not train again, and a sink leaves its complete file unchanged."""
    wait_until_complete(composed)
    loss = (composed.volume("outputs") / "loss.tsv").read_bytes()
    for name in ("keys", "trainer", "loss-file"):
        assert composed.run(name, composed.services[name]["command"]).returncode == 0
    assert (composed.volume("outputs") / "loss.tsv").read_bytes() == loss
    assert len(list((composed.volume("runs") / "digits" / "journal" / "rank-0").iterdir())) == 1


def _copy(composed: ComposeServices) -> Path:
    return next(composed.volume("relayed").glob("digits-*"))
