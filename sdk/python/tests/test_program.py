"""Programs of users, as they are started: `python app.py`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.fakes.agent import FakeAgent
from tests.fakes.registry import Registry
from tests.fakes.waiting import SOON, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FIVE_LINES = """
from robeing import App
app = App()
@app.task("sum", slots=8)
async def add(xs: list[int]) -> int: return sum(xs)
app.run()
"""

# Without a guard, though its processes import it.
WITH_PROCESSES = """
import os
from robeing import App
app = App()
@app.task("pid", run_in="process")
def pid_of() -> int: return os.getpid()
app.run()
"""

COPIES = """
import os, time
from robeing import App
app = App()
@app.task("pid")
async def pid_of() -> int: return os.getpid()
app.run(processes=2)
"""

STUCK = """
import threading
from robeing import App
app = App()
@app.task("stuck")
def stuck() -> None: threading.Event().wait()
app.run(drain=0.2)
"""


@contextlib.asynccontextmanager
async def program(
    folder: Path, text: str, agent: FakeAgent, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a program that attaches to an agent."""
    file = folder / "app.py"
    file.write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(file),
        env={**os.environ, "ROBEING_WORKER_ADDRESS": agent.address, **environment},
        stdin=subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(process: asyncio.subprocess.Process) -> int:
    """Returns the status with which a program ends."""
    return await asyncio.wait_for(process.wait(), SOON)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_five_lines_run_tasks_until_they_are_told_to_stop(tmp_path: Path) -> None:
    async with FakeAgent() as agent, program(tmp_path, FIVE_LINES, agent) as process:
        attached = await agent.attached()
        assert attached.hello.name == f"app-{process.pid}"
        assert (await attached.run("sum", b"[1,2,3]")).output == b"6"
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


async def test_a_program_without_a_guard_can_have_handlers_in_processes(tmp_path: Path) -> None:
    async with FakeAgent() as agent, program(tmp_path, WITH_PROCESSES, agent) as process:
        attached = await agent.attached()
        child = int((await attached.run("pid")).output)
        assert child != process.pid
        process.kill()
        await process.wait()
        await until("no process is left", lambda: not _runs(child))


async def test_copies_of_a_program_share_the_tasks_and_one_that_dies_is_replaced(tmp_path: Path) -> None:
    async with FakeAgent() as agent, program(tmp_path, COPIES, agent) as process:
        first, second = await agent.attached(), await agent.attached()
        pids = [int((await one.run("pid")).output) for one in (first, second)]
        assert len({process.pid, *pids}) == 3
        os.kill(pids[0], signal.SIGKILL)
        third = await agent.attached()
        again = int((await third.run("pid")).output)
        assert again not in pids
        process.send_signal(signal.SIGINT)
        assert await ended(process) == 0
        await until("no copy is left", lambda: not _runs(pids[1]) and not _runs(again))


async def test_copies_end_when_the_program_is_gone(tmp_path: Path) -> None:
    async with FakeAgent() as agent, program(tmp_path, COPIES, agent) as process:
        pids = [int((await (await agent.attached()).run("pid")).output) for _ in range(2)]
        process.kill()
        await until("no copy is left", lambda: not any(_runs(pid) for pid in pids))


async def test_a_thread_that_does_not_end_does_not_keep_the_program(tmp_path: Path) -> None:
    async with FakeAgent() as agent, program(tmp_path, STUCK, agent) as process:
        attached = await agent.attached()
        await attached.give("stuck")
        await attached.health()
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 1


async def test_an_app_that_can_not_run_says_why(tmp_path: Path) -> None:
    async with FakeAgent() as agent:
        for text, said in [
            ("from robeing import App\nApp().run()", "the app has no handlers"),
            (FIVE_LINES.replace("app.run()", 'app.run("localhost")'), "'localhost' is no address of an agent"),
            (FIVE_LINES.replace("int: return", "Nothing: return"), "name 'Nothing' is not defined"),
        ]:
            async with program(tmp_path, text, agent) as process:
                assert process.stderr is not None
                stderr = await asyncio.wait_for(process.stderr.read(), SOON)
                assert said in stderr.decode()
                assert await ended(process) == 1


async def test_a_program_attaches_to_the_agents_of_a_fleet_that_is_started_later(tmp_path: Path) -> None:
    text = FIVE_LINES.replace("app.run()", 'app.run(pool="own")')
    registry = Registry(tmp_path)
    try:
        async with FakeAgent() as one, FakeAgent() as other, program(tmp_path, text, one) as process:
            attachable = [{"agent": "own-0", "address": one.address}, {"agent": "other-0", "address": other.address}]
            registry.add("dev", attachable=attachable)
            attached = await one.attached()
            assert (await attached.run("sum", b"[1]")).output == b"1"
            registry.close()
            newer = [{"agent": "own-0", "address": other.address}]
            registry.add("dev", started=2, attachable=newer)
            await other.attached()
            assert attached.is_attached, "it stays as long as the agent is there"
            process.send_signal(signal.SIGINT)
            assert await ended(process) == 0
    finally:
        registry.close()
