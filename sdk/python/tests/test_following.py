"""Tasks that a client follows, with coordinators that misbehave."""

from __future__ import annotations

import asyncio

from robeing.v1 import types_pb2 as types
from tests.fakes.waiting import until
from tests.test_client import client


async def test_a_task_is_followed_to_its_end_by_whichever_coordinator() -> None:
    async with client(2) as (fleet, coordinators):
        for coordinator in coordinators:
            coordinator.manners.ends_watches = True
        state = coordinators[0].state
        state.work = lambda _: None
        handle = await fleet.submit("echo")
        seen = []
        async for task in handle.watch():
            seen.append(task.state)
            if task.state == types.TASK_STATE_QUEUED:
                await state.finish(handle.id, types.TASK_STATE_ASSIGNED)
            elif task.state == types.TASK_STATE_ASSIGNED:
                await state.finish(handle.id, types.TASK_STATE_SUCCEEDED)
        assert seen == [types.TASK_STATE_QUEUED, types.TASK_STATE_ASSIGNED, types.TASK_STATE_SUCCEEDED]
        assert [request.from_revision for request in state.watches] == [0, 1, 2]


async def test_all_tasks_are_watched_from_a_revision() -> None:
    async with client() as (fleet, _):
        first = await fleet.submit("echo", 1)
        revision = (await first.finished()).revision
        second = await fleet.submit("echo", 2)
        async for task in fleet.watch(from_revision=revision):
            assert task.id == second.id
            break


async def test_many_waiters_share_a_watch_and_one_that_nobody_needs_is_ended() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda _: None
        handles = await fleet.submit_many("echo", range(1_500))
        waiting = [asyncio.ensure_future(handle.finished()) for handle in handles for _ in range(2)]
        await until("they are watched", lambda: len(coordinator.state.watches) == 2)
        assert sorted(len(request.ids) for request in coordinator.state.watches) == [500, 1_000]
        opened = await fleet._connection.open()
        for one in waiting[2:]:
            one.cancel()
        await asyncio.gather(*waiting[2:], return_exceptions=True)
        await until("one watch is left", lambda: len(opened.awaited._running) == 1)
        await coordinator.state.finish(handles[0].id, types.TASK_STATE_SUCCEEDED)
        assert {task.id for task in await asyncio.gather(*waiting[:2])} == {handles[0].id}
        await until("none is left", lambda: not opened.awaited._running)


async def test_the_lines_of_a_task_are_followed_from_coordinator_to_coordinator() -> None:
    async with client(2) as (fleet, coordinators):
        state = coordinators[0].state
        state.lines = [f"line {number}" for number in range(7)]
        handle = await fleet.submit("echo")
        for ends in (False, True):
            for coordinator in coordinators:
                coordinator.manners.ends_watches = ends
            assert [line async for line in handle.logs()] == state.lines
        assert [line async for said in fleet.logs(handle.id) for line in said.lines]
        assert [[after.next for after in request.after] for request in state.followed[1:6]] == [[], [2], [4], [6], [7]]


async def test_the_progress_of_a_task_is_followed_to_its_end() -> None:
    async with client() as (fleet, [coordinator]):
        coordinator.state.work = lambda _: None
        handle = await fleet.submit("echo")
        seen = []
        async for progress in handle.progress():
            seen.append((progress.fraction, progress.text))
            await coordinator.state.finish(handle.id, types.TASK_STATE_SUCCEEDED)
        assert seen == [(0.5, "half")]
