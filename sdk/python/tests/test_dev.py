"""Programs of the SDK, and clients, with a real fleet of `robeing dev`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from robeing import Fleet, RefusedError, TaskCancelledError, TaskFailedError
from robeing.v1 import types_pb2 as types
from tests import dev
from tests.fakes.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = dev.needs_program

MANIFEST = """
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: python}
spec:
  coordinators: {replicas: 3}
  pools:
  - {name: own, replicas: 2, slots: 16, executor: {worker: {}}}
"""

PROGRAM = """
import asyncio, logging, os, pathlib
from robeing import App, Context

app = App()

@app.task("sum", slots=8)
async def add(xs: list[int]) -> int:
    return sum(xs)

@app.task("fail")
def fail(how: str) -> None:
    raise ValueError(f"bad {how}")

@app.task("hang")
async def hang(directory: str, context: Context) -> None:
    pathlib.Path(directory, "begun").write_text(f"{os.getpid()} {context.fence}")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pathlib.Path(directory, "cancelled").touch()
        raise

@app.task("once")
async def once(file: str, context: Context) -> int:
    path = pathlib.Path(file)
    if context.attempt == 1:
        path.write_text(str(os.getpid()))
        await asyncio.Event().wait()
    return context.attempt

@app.task("tree")
async def tree(depth: int, context: Context) -> int:
    return sum(await context.gather("tree", [depth - 1] * 2)) + 1 if depth else 1

@app.task("square", run_in="process", slots=2)
def square(number: int) -> list[int]:
    return [number * number, os.getpid()]

@app.task("tell")
async def tell(context: Context) -> None:
    logging.getLogger("tell").warning("begun")
    for step in range(1_000_000):
        context.progress(0.5, "half")
        context.log(f"step {step}")
        await asyncio.sleep(0.1)

app.run()
"""


@pytest.fixture(scope="module")
def fleet_of_dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dev.Dev]:
    """Runs a fleet with a program that runs its tasks."""
    folder = tmp_path_factory.mktemp("dev")
    (folder / "fleet.yaml").write_text(MANIFEST)
    (folder / "app.py").write_text(PROGRAM)
    with dev.running(folder / "fleet.yaml") as fleet:
        fleet.start(folder / "app.py")
        yield fleet
        print(fleet.program_said())  # noqa: T201


@contextlib.asynccontextmanager
async def connected(fleet: dev.Dev) -> AsyncIterator[Fleet]:
    """Connects as a program of the same user does, which says nothing."""
    before = {name: os.environ.get(name) for name in ("XDG_RUNTIME_DIR", "TMPDIR")}
    os.environ.update({name: fleet.environment[name] for name in before})
    try:
        async with Fleet.connect() as client:
            yield client
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value


async def test_a_client_and_a_program_find_the_fleet_by_themselves(fleet_of_dev: dev.Dev) -> None:
    async with connected(fleet_of_dev) as fleet:
        assert await fleet.run("sum", [1, 2, 3]) == 6
        status = await fleet.status()
        assert status.cluster_id == "python"
        assert len(status.coordinators) == 3
        names = {agent.name for agent in await fleet.agents()}
        assert names == {"own-0", "own-1"}


async def test_thousands_of_results_come_from_both_agents(fleet_of_dev: dev.Dev) -> None:
    async with connected(fleet_of_dev) as fleet:
        agents = set()
        seen = 0
        async for result in fleet.map("sum", ([number, 1] for number in range(3_000))):
            assert result.value == result.index + 1
            assert result.task is not None
            agents.add(result.task.attempts[-1].agent)
            seen += 1
        assert seen == 3_000
        assert agents == {"own-0", "own-1"}


async def test_a_failure_comes_with_the_traceback_of_the_handler(fleet_of_dev: dev.Dev) -> None:
    async with connected(fleet_of_dev) as fleet:
        with pytest.raises(TaskFailedError, match=r"ValueError: bad luck") as error:
            await fleet.run("fail", "luck", max_attempts=1)
        assert 'raise ValueError(f"bad {how}")' in error.value.details
        with pytest.raises(TaskFailedError, match="the input of 'fail' is wrong"):
            await fleet.run("fail", 7)
        with pytest.raises(RefusedError, match="priority"):
            await fleet.run("fail", "x", priority=11)


async def test_a_task_that_is_cancelled_is_cancelled_in_its_handler(fleet_of_dev: dev.Dev, tmp_path: Path) -> None:
    async with connected(fleet_of_dev) as fleet:
        handle = await fleet.submit("hang", str(tmp_path))
        await until("it runs", (tmp_path / "begun").exists)
        assert (tmp_path / "begun").read_text().endswith(f" {handle.id}/1")
        assert (await handle.cancel("enough")).state == types.TASK_STATE_CANCELLED
        with pytest.raises(TaskCancelledError, match="enough"):
            await handle
        await until("the handler is cancelled", (tmp_path / "cancelled").exists)


async def test_functions_run_in_processes_of_their_own(fleet_of_dev: dev.Dev) -> None:
    async with connected(fleet_of_dev) as fleet:
        results = await fleet.gather("square", range(20))
        assert [square for square, _ in results] == [number * number for number in range(20)]
        assert 1 <= len({pid for _, pid in results}) <= 2


async def test_subtasks_have_subtasks(fleet_of_dev: dev.Dev) -> None:
    async with connected(fleet_of_dev) as fleet:
        assert await fleet.run("tree", 2) == 7


async def test_all_results_come_though_the_leader_dies(fleet_of_dev: dev.Dev) -> None:
    async with connected(fleet_of_dev) as fleet:
        status = await fleet.status()
        leader = next(one for one in status.coordinators if one.name == status.leader)
        values = []
        async for result in fleet.map("sum", ([number] for number in range(4_000))):
            values.append(result.value)
            if len(values) == 500:
                os.kill(leader.pid, signal.SIGKILL)
        assert sorted(values) == list(range(4_000))


async def test_what_a_dead_program_ran_is_run_again(fleet_of_dev: dev.Dev, tmp_path: Path) -> None:
    async with connected(fleet_of_dev) as fleet:
        file = tmp_path / "pid"
        handle = await fleet.submit("once", str(file), initial_backoff=0.1)
        await until("it runs", lambda: file.exists() and file.read_text())
        pid = int(file.read_text())
        program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1].decode()
        os.kill(pid, signal.SIGKILL)
        fleet_of_dev.start(Path(program))
        assert await asyncio.wait_for(handle.result(), 60) == 2


async def test_lines_and_progress_are_followed(fleet_of_dev: dev.Dev) -> None:
    async with connected(fleet_of_dev) as fleet:
        handle = await fleet.submit("tell")
        async for progress in handle.progress():
            assert (progress.fraction, progress.text) == (0.5, "half")
            break
        seen = []
        async for line in handle.logs():
            seen.append(line)
            if len(seen) == 3:
                break
        assert seen == ["WARNING tell: begun", "step 0", "step 1"]
        result = await handle.cancel(wait=30)
        assert result.stopped
