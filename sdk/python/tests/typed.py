"""What type checkers know of the SDK. This is checked by mypy and not run."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from robeing import App, Context, Fleet, Result, TaskHandle

app = App()


@app.task("sum", slots=8)
async def add(xs: list[int]) -> int:
    """A coroutine."""
    return sum(xs)


@app.task(run_in="process")
def length(text: str) -> int:
    """A function."""
    return len(text)


@app.task("scale")
async def scale(path: str, context: Context, factor: float = 1.0) -> list[str]:
    """One with several parameters."""
    sums = await context.gather(add, [[1], [2]])
    assert_type(sums, list[int])
    assert_type(await context.gather("sum", [[1]]), list[Any])
    return [path] * round(factor)


async def use() -> None:
    """Uses a client."""
    assert_type(await add([1]), int)
    assert_type(length("a"), int)
    async with Fleet.connect("localhost:8080", request_timeout=3) as fleet:
        assert_type(fleet, Fleet)
        assert_type(await fleet.run(add, [1], priority=9, deadline=1.5), int)
        assert_type(await fleet.run(length, "a"), int)
        assert_type(await fleet.run(scale, {"path": "a"}), Any)
        assert_type(await fleet.run("sum", [1]), Any)
        handle = await fleet.submit(add, [1])
        assert_type(handle, TaskHandle[int])
        assert_type(await handle, int)
        assert_type(await fleet.submit_many(length, ["a"]), list[TaskHandle[int]])
        assert_type(await fleet.gather(add, [[1], [2]]), list[int])
        async for result in fleet.map(add, ([n] for n in range(9))):
            assert_type(result, Result[int])
            assert_type(result.value, int)
        await fleet.run(add, ["a"])  # type: ignore[arg-type]
        await fleet.run(add, [1], prio=9)  # type: ignore[call-overload]
