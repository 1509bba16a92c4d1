"""Where the agents are that this process attaches to."""

from __future__ import annotations

import os
from dataclasses import dataclass

from robeing import _dev
from robeing.errors import NotStartedError

ADDRESS = "ROBEING_WORKER_ADDRESS"
# Where agents listen unless they are told otherwise.
DEFAULT_ADDRESS = "127.0.0.1:8081"


@dataclass(frozen=True)
class Agents:
    """The agents that a process attaches to."""

    addresses: tuple[str, ...] = ()
    # The name of a fleet of `robeing dev`, and of a pool of it.
    fleet: str | None = None
    pool: str | None = None

    def chosen(self) -> list[str] | None:
        """Returns the addresses that were given, or that the environment has; `None`: they are to be found.

        The environment does not count if the fleet or the pool is named.

        Raises:
            NotStartedError: one of them is no host:port.
        """
        given = list(self.addresses)
        if not given and self.fleet is None and self.pool is None:
            given = [one.strip() for one in os.environ.get(ADDRESS, "").split(",") if one.strip()]
        for one in given:
            host, colon, port = one.rpartition(":")
            if not (host and colon and port.isdigit() and 0 < int(port) < 65_536):
                raise NotStartedError(f"{one!r} is no address of an agent; write host:port, such as {DEFAULT_ADDRESS}")
        return given or None

    def found(self) -> list[str]:
        """Returns the addresses of the agents of the newest fleet of `robeing dev` that has such.

        If none runs, and none is named, it is the address at which an agent listens by default, as in a pod.
        """
        for fleet in _dev.running(self.fleet):
            found = [address for agent, address in fleet.attachable if self.pool in (None, agent.rpartition("-")[0])]
            if found:
                return found
        return [DEFAULT_ADDRESS] if self.fleet is None and self.pool is None else []
