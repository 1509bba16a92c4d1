"""Submits tasks to the fleet that runs on this machine, and prints their results.

`python submit.py` needs `words.py` to run.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from robeing import Fleet, TaskFailedError

TEXT = Path(__file__).parent.parent / "texts" / "lighthouse-log.txt"


async def main() -> None:
    """Submits one task, then many."""
    async with Fleet.connect() as fleet:
        print("one:", await fleet.run("sum", [1, 2, 3]))

        total = 0
        async for result in fleet.map("sum", ([number, number] for number in range(10_000))):
            total += result.value
        print("ten thousand:", total)

        print("subtasks:", await fleet.run("count-all", [str(TEXT)] * 3), "words")

        handle = await fleet.submit("count-words", str(TEXT))
        text = await handle
        print(f"a handle: {text['words']} words, most often {text['most']!r}")

        try:
            await fleet.run("count-words", "/nonexistent")
        except TaskFailedError as error:
            print("a failure:", error.task.failure.message)


if __name__ == "__main__":
    asyncio.run(main())
