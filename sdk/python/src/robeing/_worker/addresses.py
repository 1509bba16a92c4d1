"""Where the agents are that this process attaches to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from robeing import _dev
from robeing.errors import NotStartedError

if TYPE_CHECKING:
    from collections.abc import Sequence

ADDRESS = "ROBEING_WORKER_ADDRESS"
# Where agents listen unless they are told otherwise.
DEFAULT_ADDRESS = "127.0.0.1:8081"


def chosen(addresses: Sequence[str], fleet: str | None) -> list[str] | None:
    """Returns the addresses that were given, or that the environment has; `None`: they are to be found.

    Raises:
        NotStartedError: one of them is no host:port.
    """
    given = list(addresses)
    if not given and fleet is None:
        given = [one.strip() for one in os.environ.get(ADDRESS, "").split(",") if one.strip()]
    for one in given:
        host, colon, port = one.rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65_536):
            raise NotStartedError(f"{one!r} is no address of an agent; write host:port, such as {DEFAULT_ADDRESS}")
    return given or None


def found(fleet: str | None) -> list[str]:
    """Returns the addresses of the agents of the newest fleet of `robeing dev`, or that of this name.

    If none runs, it is the address at which an agent listens by default, as in a pod.
    """
    for one in _dev.running(fleet):
        if one.attachable:
            return [address for _, address in one.attachable]
    return [DEFAULT_ADDRESS] if fleet is None else []
