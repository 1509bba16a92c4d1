"""Fleets on Kubernetes, through a kubectl that a test plays."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from robeing import Fleet, NoFleetError, UnavailableError
from robeing._client import kubernetes
from tests.fakes.fleet import Coordinator, State
from tests.fakes.waiting import SOON, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import Authority

# Answers from files, and forwards by saying where the coordinator is.
KUBECTL = """#!{python}
import json, os, pathlib, sys, time
folder = pathlib.Path({folder!r})
words = [word for word in sys.argv[1:] if not word.startswith("--")]
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if words[0] == "port-forward":
    port = (folder / "forward" / words[1].split("/")[1]).read_text()
    if not port.isdigit():
        sys.exit(port)
    print(f"Forwarding from 127.0.0.1:{{port}} -> 8080", flush=True)
    time.sleep(600)
answer = folder / ".".join(words[:3])
if not answer.exists():
    sys.exit(f"Error from server (NotFound): {{' '.join(words)}}")
sys.stdout.write(answer.read_text())
"""


class Cluster:
    """What the fake kubectl knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "forward").mkdir(parents=True)
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        program = bin_folder / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        self.path = f"{bin_folder}:{os.environ['PATH']}"

    def answer(self, words: str, answer: object) -> None:
        """Sets an answer."""
        text = answer if isinstance(answer, str) else json.dumps(answer)
        (self.folder / words.replace(" ", ".")).write_text(text)

    def forward(self, pod: str, to: object) -> None:
        """Sets the port that leads to a pod, or why none does."""
        (self.folder / "forward" / pod).write_text(str(to))

    def calls(self) -> list[list[str]]:
        """Returns the command lines so far."""
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return []


def pod(name: str, ready: str = "True", phase: str = "Running") -> dict[str, Any]:
    """Returns a pod."""
    return {"metadata": {"name": name}, "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority) -> Cluster:
    """Returns a cluster with a fleet `first`."""
    cluster = Cluster(tmp_path / "cluster")
    monkeypatch.setenv("PATH", cluster.path)
    trust, _, _ = authority.client(tmp_path)
    cluster.answer("get robeingclusters.robeing.io", {"items": [{"metadata": {"name": "first"}}]})
    cluster.answer("get configmap first-trust", {"data": {"trust.crt": trust.read_text()}})
    cluster.answer("create token first.user", "token-1\n")
    cluster.answer(
        "get pods", {"items": [pod("first-0"), pod("first-1", ready="False"), pod("first-2", phase="Pending")]}
    )
    return cluster


@contextlib.asynccontextmanager
async def coordinator(authority: Authority) -> AsyncIterator[Coordinator]:
    """Starts a coordinator that takes clients without a certificate."""
    async with Coordinator(State(), authority.server(needs_certificate=False)) as started:
        yield started


async def test_the_only_fleet_of_a_namespace_is_reached_with_a_token(cluster: Cluster, authority: Authority) -> None:
    async with coordinator(authority) as one:
        cluster.forward("first-0", one.port)
        async with Fleet.connect(namespace="n", context="c", kubeconfig="/k") as fleet:
            assert await fleet.run("echo", 1) == 1
            assert one.state.authorizations == ["Bearer token-1"]
    calls = cluster.calls()
    assert all(call[:3] == ["--kubeconfig=/k", "--context=c", "--namespace=n"] for call in calls)
    assert [call[3:5] for call in calls] == [
        ["get", "robeingclusters.robeing.io"],
        ["get", "configmap"],
        ["create", "token"],
        ["get", "pods"],
        ["port-forward", "--address=127.0.0.1"],
    ]
    assert calls[2][5:] == ["first.user", "--audience=robeing", "--duration=3600s"]


async def test_the_token_is_renewed_and_a_forward_that_ended_is_opened_again(
    cluster: Cluster, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "TOKEN_LIFETIME", 1)
    monkeypatch.setattr(kubernetes, "LOOK_EVERY", 0.05)
    async with coordinator(authority) as one:
        cluster.forward("first-0", one.port)
        cluster.answer("create token bob", "token-a")
        async with Fleet.connect(cluster="first", service_account="bob") as fleet:
            await fleet.status()
            cluster.answer("create token bob", "token-b")

            ends = time.monotonic() + SOON
            while one.state.authorizations[-1] != "Bearer token-b":
                assert time.monotonic() < ends, "the token is not renewed"
                await fleet.status()
            opened = await fleet._connection.open()
            assert opened.kubernetes is not None
            (forward,) = opened.kubernetes._forwards
            assert forward._process is not None
            forward._process.kill()
            before = sum("port-forward" in call for call in cluster.calls())
            await until(
                "it is forwarded again", lambda: sum("port-forward" in call for call in cluster.calls()) > before
            )


async def test_a_kubectl_that_is_away_for_a_while_ends_no_renewal(
    cluster: Cluster, authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kubernetes, "TOKEN_LIFETIME", 1)
    monkeypatch.setattr(kubernetes, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(kubernetes, "RENEW_AGAIN", 0.1)
    program = cluster.folder / "bin" / "kubectl"
    async with coordinator(authority) as one:
        cluster.forward("first-0", one.port)
        async with Fleet.connect(cluster="first") as fleet:
            await fleet.status()
            monkeypatch.setenv("PATH", str(program.parent))
            away = program.rename(program.with_name("away"))
            await until("its absence is reported", lambda: "kubectl can't be started" in caplog.text)
            cluster.answer("create token first.user", "token-2")
            away.rename(program)

            ends = time.monotonic() + SOON
            while one.state.authorizations[-1] != "Bearer token-2":
                assert time.monotonic() < ends, "the token is not renewed"
                await fleet.status()


async def test_what_is_missing_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def problem(**where: str) -> str:
        fleet = Fleet.connect(**where)  # type: ignore[arg-type]
        with pytest.raises(NoFleetError) as error:
            await fleet.status()
        await fleet.close()
        return str(error.value)

    assert "get configmap second-trust failed: Error from server (NotFound)" in await problem(cluster="second")
    cluster.forward("first-0", "unable to forward: no such pod")
    assert "kubectl does not forward to the pod first-0: unable to forward" in await problem(cluster="first")
    cluster.answer("get pods", {"items": [pod("first-0", ready="False")]})
    assert "no coordinator of the RobeingCluster first is ready" in await problem(cluster="first")
    cluster.answer("get configmap first-trust", {"data": {}})
    assert "has no trust.crt" in await problem(cluster="first")
    cluster.answer("get configmap first-trust", "no JSON")
    assert "did not answer with JSON" in await problem(cluster="first")
    for names, listed in [([], "none"), (["a", "b"], "a, b")]:
        cluster.answer("get robeingclusters.robeing.io", {"items": [{"metadata": {"name": name}} for name in names]})
        assert f"the namespace has {listed}" in await problem(namespace="n")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "kubectl, which is not in PATH" in await problem(cluster="first")


async def test_a_fleet_whose_coordinators_are_gone_is_away(cluster: Cluster) -> None:
    cluster.forward("first-0", 1)
    async with Fleet.connect(cluster="first", request_timeout=1) as fleet:
        with pytest.raises((UnavailableError, NoFleetError), match="RobeingCluster first, pod first-0"):
            await fleet.status()
