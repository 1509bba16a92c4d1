"""An agent in a process of its own, which can be frozen: prints its address, and gives one task to each process."""

from __future__ import annotations

import asyncio

from tests.fakes.agent import FakeAgent


async def main() -> None:
    """Serves until killed."""
    async with FakeAgent() as agent:
        print(agent.address, flush=True)  # noqa: T201
        while True:
            process = await agent.attached()
            await process.give("wait")


asyncio.run(main())
