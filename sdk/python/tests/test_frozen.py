"""Agents that are frozen: their tasks run elsewhere after seconds, so they must be stopped here."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

from robeing import App
from robeing._worker.session import KEEP_ALIVE_MS
from tests.fakes.waiting import SOON

SDK = Path(__file__).parent.parent


async def test_what_runs_for_a_frozen_agent_is_stopped() -> None:
    app = App()
    begun, ended = asyncio.Event(), asyncio.Event()

    @app.task("wait")
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.separate_agent", cwd=SDK, stdout=asyncio.subprocess.PIPE
    )
    running: asyncio.Future[None] | None = None
    try:
        assert agent.stdout is not None
        address = (await asyncio.wait_for(agent.stdout.readline(), SOON)).decode().strip()
        running = asyncio.ensure_future(app.serve(address))
        await asyncio.wait_for(begun.wait(), SOON)
        # It is not taken for frozen as long as it is not.
        await asyncio.sleep(3 * KEEP_ALIVE_MS / 1_000)
        assert not ended.is_set()
        agent.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        await asyncio.wait_for(ended.wait(), SOON)
        assert time.monotonic() - frozen >= KEEP_ALIVE_MS / 1_000, "it had its time to answer"
        agent.send_signal(signal.SIGCONT)
        begun.clear()
        await asyncio.wait_for(begun.wait(), SOON)
    finally:
        agent.kill()
        await agent.wait()
        if running is not None:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
