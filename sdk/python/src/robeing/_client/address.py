"""Endpoints as users write them."""

from __future__ import annotations

from typing import NamedTuple

from robeing.errors import NoFleetError

# The port of a coordinator if the endpoint has none.
DEFAULT_PORT = 8080


class Address(NamedTuple):
    """Where a coordinator listens. The scheme `https` states that it must prove who it is."""

    is_https: bool
    # A name or an IP address; IPv6 in brackets.
    host: str
    port: int

    @property
    def target(self) -> str:
        """The host and port."""
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.is_https else 'http'}://{self.target}"


def parse(given: str) -> Address:
    """Reads `host`, `host:port`, `http://host:port` or `https://host:port`.

    Raises:
        NoFleetError: it is none of these.
    """

    def bad(problem: str) -> NoFleetError:
        return NoFleetError(f"{given!r} is not an endpoint: {problem}; write host:port or http://host:port")

    scheme, separator, rest = given.strip().partition("://")
    if not separator:
        scheme, rest = "http", scheme
    if scheme not in ("http", "https"):
        raise bad("its scheme is neither http nor https")
    rest = rest.removesuffix("/")
    if any(character.isspace() or character in "/?#@," for character in rest):
        raise bad("there is more in it than a host and a port")
    host, port = _split(rest)
    if host is None:
        raise bad("an IPv6 address must be in brackets, as in [::1]:8080")
    if not host:
        raise bad("it names no host")
    if port is None:
        return Address(scheme == "https", host, DEFAULT_PORT)
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65_535):
        raise bad("its port is not a number from 1 to 65535")
    return Address(scheme == "https", host, int(port))


def _split(text: str) -> tuple[str | None, str | None]:
    if text.startswith("["):
        host, bracket, after = text.partition("]")
        if not bracket or (after and not after.startswith(":")):
            return None, None
        return host + bracket, after[1:] if after else None
    host, colon, port = text.partition(":")
    if ":" in port:
        return None, None
    return host, port if colon else None
