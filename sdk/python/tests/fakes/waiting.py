"""Waiting for conditions, with a deadline."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# How long a condition may take, seconds: it is met in far less, unless the machine is very busy.
SOON = 20.0


async def until(what: str, condition: Callable[[], object], within: float = SOON) -> None:
    """Waits until a condition holds."""
    ends = time.monotonic() + within
    while not condition():
        assert time.monotonic() < ends, f"it takes too long: {what}"
        await asyncio.sleep(0.005)


def until_blocking(what: str, condition: Callable[[], object], within: float = SOON) -> None:
    """Waits until a condition holds, without an event loop."""
    ends = time.monotonic() + within
    while not condition():
        assert time.monotonic() < ends, f"it takes too long: {what}"
        time.sleep(0.01)
