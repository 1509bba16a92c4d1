"""The room of a window: places are given in order, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib

from robeing._client.room import Room


def free_of(room: Room) -> int:
    """Takes all free places, and returns how many there were."""
    free = 0
    while room.take():
        free += 1
    return free


async def queue(room: Room, *names: str) -> tuple[list[str], dict[str, asyncio.Task[None]]]:
    """Has some wait for places; returns who got one, in order, and who waits."""
    got: list[str] = []

    async def wait(name: str) -> None:
        await room.wait()
        got.append(name)

    waiting = {name: asyncio.get_running_loop().create_task(wait(name)) for name in names}
    await asyncio.sleep(0)
    return got, waiting


async def end(task: asyncio.Task[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_no_more_places_are_taken_than_there_are() -> None:
    room = Room(3)
    assert free_of(room) == 3
    room.give()
    room.give(2)
    await room.wait()
    assert free_of(room) == 2


async def test_places_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    room = Room(0)
    got, waiting = await queue(room, "a", "b", "c")
    room.give(2)
    assert not room.take(), "it does not get in before those who wait"
    await asyncio.gather(waiting["a"], waiting["b"])
    assert got == ["a", "b"]
    room.give(3)
    await waiting["c"]
    assert got == ["a", "b", "c"]
    assert free_of(room) == 2


async def test_a_place_is_not_lost_with_one_who_does_not_wait_any_more() -> None:
    room = Room(0)
    got, waiting = await queue(room, "a", "b", "c", "d")
    # One leaves before there is a place, one at the same time, and one when it has been given a place.
    waiting["a"].cancel()
    await end(waiting["a"])
    waiting["b"].cancel()
    room.give()
    waiting["c"].cancel()
    for name in "bcd":
        await end(waiting[name])
    assert got == ["d"]
    assert free_of(room) == 0
    room.give()
    assert free_of(room) == 1
