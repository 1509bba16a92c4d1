"""The connection of a client, which is made when it is first needed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robeing._client.calls import Calls
from robeing._client.find import Place, find
from robeing._client.submissions import Submissions
from robeing._client.watching import Awaited
from robeing.errors import UnavailableError

if TYPE_CHECKING:
    from robeing._client.kubernetes import Kubernetes


@dataclass
class Open:
    """A connection that is open."""

    calls: Calls
    awaited: Awaited
    submissions: Submissions
    kubernetes: Kubernetes | None


class Connection:
    """Connects once, when it is first asked to."""

    def __init__(self, place: Place, request_timeout: float) -> None:
        self._place = place
        self._request_timeout = request_timeout
        self._opening = asyncio.Lock()
        self._open: Open | None = None
        self._is_closed = False

    async def open(self) -> Open:
        """Returns the connection.

        Raises:
            NoFleetError: the fleet is not found.
        """
        if self._open is not None:
            return self._open
        async with self._opening:
            if self._is_closed:
                raise UnavailableError("the client was closed")
            if self._open is None:
                targets, kubernetes = await find(self._place)
                calls = Calls(targets, self._request_timeout)
                awaited = Awaited(calls)
                self._open = Open(calls, awaited, Submissions(calls, awaited), kubernetes)
            return self._open

    async def close(self) -> None:
        """Closes it for ever."""
        self._is_closed = True
        # One that is being opened is closed, too: it may have processes of kubectl.
        async with self._opening:
            opened, self._open = self._open, None
        if opened is None:
            return
        await opened.submissions.close()
        opened.awaited.close()
        await opened.calls.close()
        if opened.kubernetes is not None:
            await opened.kubernetes.close()
