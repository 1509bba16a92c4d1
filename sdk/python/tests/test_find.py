"""Which fleet a program means, and with which credentials it connects."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

import pytest

from robeing import Fleet, NoFleetError, UntrustedError, _dev
from robeing._client.address import parse
from robeing._client.credentials import Files
from robeing._client.find import Place, find
from robeing._client.target import Target
from robeing._worker.addresses import Agents
from robeing.errors import NotStartedError
from tests.fakes.fleet import Coordinator, State, fleet_of
from tests.fakes.registry import Registry
from tests.fakes.waiting import SOON

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Authority


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Returns an empty registry."""
    registry = Registry(tmp_path)
    yield registry
    registry.close()


async def endpoints(place: Place) -> list[str]:
    """Returns the coordinators of a place."""
    return [target.name for target in (await find(place))[0]]


async def test_the_newest_fleet_of_dev_is_found_unless_another_is_named(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await endpoints(Place()) == ["http://127.0.0.1:8080"], "without any, it is the usual endpoint"
    registry.add("old", "http://127.0.0.1:1", started=1)
    registry.add("new", "http://127.0.0.1:2", "http://127.0.0.1:3", started=9)
    registry.add("killed", "http://127.0.0.1:4", started=10, runs=False)
    assert await endpoints(Place()) == ["http://127.0.0.1:2", "http://127.0.0.1:3"]
    assert await endpoints(Place(dev="old")) == ["http://127.0.0.1:1"]
    with pytest.raises(NoFleetError, match=r"is named 'none' \(searched .*\); running: new, old"):
        await find(Place(dev="none"))
    registry.add("old", "http://127.0.0.1:5", started=5)
    with pytest.raises(NoFleetError, match="2 running fleets of `robeing dev` are named 'old'"):
        await find(Place(dev="old"))
    monkeypatch.setenv("ROBEING_ENDPOINT", "a:1, b")
    assert await endpoints(Place()) == ["http://a:1", "http://b:8080"], "the environment says which"
    assert await endpoints(Place(["c:7"])) == ["http://c:7"], "and the program before it"


async def test_a_registry_that_others_can_write_to_is_not_believed(registry: Registry) -> None:
    registry.add("one", "http://127.0.0.1:1")
    registry.folder.chmod(stat.S_IRWXU | stat.S_IWOTH)
    assert _dev.running() == []
    registry.folder.chmod(0o700)
    assert [fleet.name for fleet in _dev.running()] == ["one"]
    (registry.folder / "broken.json").write_text("{")
    assert len(_dev.running()) == 1


async def test_the_credentials_of_a_fleet_of_dev_are_used_also_when_its_endpoint_is_named(registry: Registry) -> None:
    identity = {"trust": "authorities", "certificate": "certificate", "key": "key"}
    registry.add("one", "https://127.0.0.1:1", identity=identity)
    for place in (Place(), Place(["127.0.0.1:1"])):
        (target,), _ = await find(place)
        assert target.credentials is not None
        assert (target.credentials.trust, target.credentials.certificate) == (b"authorities", (b"certificate", b"key"))
    (target,), _ = await find(Place(["127.0.0.1:2"]))
    assert target.credentials is None
    assert "key" not in repr(_dev.running()[0]).replace("key=", "")


async def test_credentials_that_are_not_whole_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    missing = tmp_path / "missing"
    for place, problem in [
        (Place(["https://a"]), "give trust=FILE"),
        (Place(["a"], token="t"), "a token needs trust"),
        (Place(["a"], files=Files(token_file=file)), "needs trust, too"),
        (Place(["a"], files=Files(trust=file, certificate=file)), "go together"),
        (Place(["a"], files=Files(trust=missing)), f"can't read {missing}: No such file"),
        (Place(["a"], files=Files(trust=file, token_file=missing)), f"can't read {missing}"),
        (Place(["unix:/a"]), "more in it"),
    ]:
        with pytest.raises(NoFleetError, match=problem):
            await find(place)
    monkeypatch.setenv("ROBEING_TRUST", str(file))
    monkeypatch.setenv("ROBEING_TOKEN_FILE", str(file))
    (target,), _ = await find(Place(["https://a"]))
    assert target.credentials is not None
    assert target.credentials.token is not None
    assert target.credentials.token() == "text"
    file.write_text(" another\n")
    assert target.credentials.token() == "another", "it is read again"


def test_fleets_are_named_in_one_way() -> None:
    with pytest.raises(TypeError, match="one of them"):
        Fleet.connect("a", dev="b")
    with pytest.raises(TypeError, match="one of them"):
        Fleet.connect(dev="b", cluster="c")


def test_endpoints_are_read_as_the_command_line_does() -> None:
    for given, url in [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:9000/", "http://localhost:9000"),
        ("fleet.example", "http://fleet.example:8080"),
        (" [::1]:7000 ", "http://[::1]:7000"),
        ("[::1]", "http://[::1]:8080"),
        ("https://fleet", "https://fleet:8080"),
    ]:
        assert str(parse(given)) == url
    for given, problem in [
        ("", "names no host"),
        (":8080", "names no host"),
        ("http://", "names no host"),
        ("ftp://x", "scheme"),
        ("fleet:0", "port"),
        ("fleet:65536", "port"),
        ("fleet:http", "port"),
        ("::1", "brackets"),
        ("[::1]8080", "brackets"),
        ("fleet:80/v1", "more in it"),
        ("a b", "more in it"),
    ]:
        with pytest.raises(NoFleetError, match=problem):
            parse(given)


def test_agents_are_found_where_the_program_or_the_environment_says_or_dev_runs(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Agents().chosen() is None
    assert Agents().found() == ["127.0.0.1:8081"]
    assert Agents(fleet="one").found() == [], "a fleet that is named is waited for"
    attachable = {"own-0": "127.0.0.1:5", "own-1": "127.0.0.1:6", "other-0": "127.0.0.1:7"}
    registry.add("one", attachable=[{"agent": agent, "address": address} for agent, address in attachable.items()])
    registry.add("newer", started=2)
    assert Agents().found() == list(attachable.values()), "a fleet without such agents is passed over"
    assert Agents(fleet="one", pool="own").found() == ["127.0.0.1:5", "127.0.0.1:6"]
    assert Agents(pool="other").found() == ["127.0.0.1:7"]
    assert Agents(pool="none").found() == []
    monkeypatch.setenv("ROBEING_WORKER_ADDRESS", "127.0.0.1:1, [::1]:2,")
    assert Agents().chosen() == ["127.0.0.1:1", "[::1]:2"]
    assert Agents(("a:3",)).chosen() == ["a:3"]
    assert Agents(fleet="one").chosen() is None
    assert Agents(pool="own").chosen() is None
    for wrong in ("a", "a:", ":1", "a:0", "a:65536", "a:b"):
        with pytest.raises(NotStartedError, match="no address of an agent"):
            Agents((wrong,)).chosen()


async def test_a_client_and_a_coordinator_prove_who_they_are(authority: Authority, tmp_path: Path) -> None:
    trust, certificate, key = authority.client(tmp_path)
    token = tmp_path / "token"
    token.write_text("first")
    async with Coordinator(State(), authority.server()) as coordinator:
        # Its certificate has the name `localhost` and no other.
        endpoint = f"https://{coordinator.endpoint}"
        async with Fleet.connect(endpoint, trust=trust, certificate=certificate, private_key=key) as fleet:
            assert await fleet.run("echo", 1) == 1
        assert set(coordinator.state.authorizations) == {None}
        async with Fleet.connect(
            endpoint, trust=trust, certificate=certificate, private_key=key, token_file=token
        ) as fleet:
            assert (await fleet.status()).cluster_id == "fake"
            token.write_text("second")
            await fleet.status()
        assert coordinator.state.authorizations[-2:] == ["Bearer first", "Bearer second"]


async def test_strangers_are_told_apart(authority: Authority, tmp_path: Path) -> None:
    trust, certificate, key = authority.client(tmp_path)
    async with Coordinator(State(), authority.server()) as coordinator:
        other = authority.another(tmp_path)
        async with Fleet.connect(f"https://{coordinator.endpoint}", trust=other, request_timeout=5) as fleet:
            with pytest.raises(UntrustedError, match=f"not from an authority in {other}"):
                await fleet.status()
        async with Fleet.connect(coordinator.endpoint, request_timeout=5) as fleet:
            with pytest.raises(UntrustedError, match="speaks TLS: say whom to trust"):
                await fleet.run("echo")
    async with fleet_of() as [coordinator]:
        endpoint = f"https://{coordinator.endpoint}"
        async with Fleet.connect(
            endpoint, request_timeout=1, trust=trust, certificate=certificate, private_key=key
        ) as fleet:
            with pytest.raises(Exception, match="has not answered"):
                await fleet.status()
    assert os.listdir(tmp_path)  # noqa: PTH208


async def test_a_client_that_is_closed_while_it_connects_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting, may_connect, is_closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Kept:
        async def close(self) -> None:
            is_closed.set()

    async def find_slowly(_: object) -> tuple[list[Target], Kept]:
        connecting.set()
        await may_connect.wait()
        return [Target("a", "127.0.0.1", 1, None)], Kept()

    monkeypatch.setattr("robeing._client.connection.find", find_slowly)
    fleet = Fleet.connect()
    opening = asyncio.ensure_future(fleet._connection.open())
    await connecting.wait()
    closing = asyncio.ensure_future(fleet.close())
    # It has begun to close.
    await asyncio.sleep(0)
    may_connect.set()
    await asyncio.wait_for(asyncio.gather(opening, closing), SOON)
    assert is_closed.is_set()
