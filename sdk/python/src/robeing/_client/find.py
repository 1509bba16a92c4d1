"""Finds the fleet that a program means."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from robeing import _dev
from robeing._client.address import Address, parse
from robeing._client.credentials import Credentials, Files
from robeing._client.kubernetes import Kubernetes, Location
from robeing._client.target import Target
from robeing.errors import NoFleetError

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("robeing")

# The endpoint if nothing else is found.
DEFAULT_ENDPOINT = "127.0.0.1:8080"


@dataclass(frozen=True)
class Place:
    """What a program says of the fleet that it means."""

    endpoints: Sequence[str] = ()
    # The name of a fleet of `robeing dev`.
    dev: str | None = None
    # A fleet on Kubernetes.
    kubernetes: Location | None = None
    files: Files = field(default_factory=Files)
    token: str | None = None


async def find(place: Place) -> tuple[list[Target], Kubernetes | None]:
    """Returns the coordinators of the fleet, and what keeps the connections to them, if that is needed.

    Raises:
        NoFleetError: it is not found.
    """
    if place.kubernetes is not None:
        kubernetes = Kubernetes(place.kubernetes)
        try:
            return await kubernetes.open(), kubernetes
        except BaseException:
            await kubernetes.close()
            raise
    if place.dev is not None:
        return _of_dev(_named(place.dev)), None
    endpoints = list(place.endpoints) or _of_environment()
    if not endpoints:
        running = _dev.running()
        if running:
            log.info("using the fleet %s of `robeing dev` at %s", running[0].name, ", ".join(running[0].endpoints))
            return _of_dev(running[0]), None
        endpoints = [DEFAULT_ENDPOINT]
    addresses = [parse(endpoint) for endpoint in endpoints]
    return _targets(addresses, _credentials(place, addresses)), None


def _of_environment() -> list[str]:
    said = os.environ.get("ROBEING_ENDPOINT", "")
    return [one for one in (part.strip() for part in said.split(",")) if one]


def _named(name: str) -> _dev.DevFleet:
    fleets = _dev.running(name)
    if len(fleets) > 1:
        raise NoFleetError(f"{len(fleets)} running fleets of `robeing dev` are named {name!r}; name an endpoint of one")
    if not fleets:
        folders = ", ".join(str(folder) for folder in _dev.searched())
        others = ", ".join(fleet.name for fleet in _dev.running()) or "none"
        raise NoFleetError(
            f"no running fleet of `robeing dev` is named {name!r} (searched {folders}); running: {others}"
        )
    return fleets[0]


def _of_dev(fleet: _dev.DevFleet) -> list[Target]:
    return _targets([parse(endpoint) for endpoint in fleet.endpoints], _dev_credentials(fleet))


def _dev_credentials(fleet: _dev.DevFleet) -> Credentials | None:
    if fleet.identity is None:
        return None
    certificate = (fleet.identity.certificate.encode(), fleet.identity.key.encode())
    return Credentials(fleet.identity.trust.encode(), certificate, source=f"those of the fleet {fleet.name}")


def _credentials(place: Place, addresses: list[Address]) -> Credentials | None:
    credentials = place.files.or_environment().read()
    if credentials is not None:
        if place.token is None:
            return credentials
        token = place.token
        return Credentials(credentials.trust, credentials.certificate, lambda: token, credentials.source)
    if place.token is not None:
        raise NoFleetError("a token needs trust, too, so that it is sent to no stranger")
    targets = {address.target for address in addresses}
    for fleet in _dev.running():
        if targets & {parse(endpoint).target for endpoint in fleet.endpoints}:
            return _dev_credentials(fleet)
    if any(address.is_https for address in addresses):
        raise NoFleetError(
            "an https endpoint must prove who it is: give trust=FILE, the certificates of the authorities"
        )
    return None


def _targets(addresses: list[Address], credentials: Credentials | None) -> list[Target]:
    return [Target(str(address), address.host, address.port, credentials) for address in addresses]
