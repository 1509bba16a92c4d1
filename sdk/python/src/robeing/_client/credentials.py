"""How a client proves who it is, and whom it trusts."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from robeing.errors import NoFleetError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("robeing")

# gRPC compares host names, and members of a fleet are named by other means. All coordinators have this one in their
# certificates, and nobody else in a fleet has any.
COORDINATOR_NAME = "localhost"
# The longest file of credentials that is read, bytes.
MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Credentials:
    """Whom a client trusts, and its certificate or token."""

    # The authorities that must have certified the coordinators, PEM.
    trust: bytes
    # Its certificate and private key, PEM.
    certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)
    # Returns the token, which may be another one later.
    token: Callable[[], str] | None = field(default=None, repr=False)
    # Where the authorities came from, for messages.
    source: str = "the given certificates"

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Returns how channels are secured."""
        certificate, key = self.certificate or (None, None)
        tls = grpc.ssl_channel_credentials(self.trust, key, certificate)
        if self.token is None:
            return tls
        return grpc.composite_channel_credentials(tls, grpc.metadata_call_credentials(_Bearer(self.token)))


class _Bearer(grpc.AuthMetadataPlugin):
    """Adds the token to each call, over TLS alone."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def __call__(self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        try:
            token = self._token()
        except Exception as error:
            log.warning("the token can't be read: %s", error)
            callback((), error)
        else:
            callback((("authorization", f"Bearer {token}"),), None)


@dataclass(frozen=True)
class Files:
    """The files that a user names, as the options and variables of the command line."""

    trust: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    private_key: str | os.PathLike[str] | None = None
    token_file: str | os.PathLike[str] | None = None

    def or_environment(self) -> Files:
        """Returns these, with what is not given as the environment has it."""

        def either(given: str | os.PathLike[str] | None, variable: str) -> str | os.PathLike[str] | None:
            return given if given is not None else os.environ.get(variable) or None

        return Files(
            either(self.trust, "ROBEING_TRUST"),
            either(self.certificate, "ROBEING_CERTIFICATE"),
            either(self.private_key, "ROBEING_PRIVATE_KEY"),
            either(self.token_file, "ROBEING_TOKEN_FILE"),
        )

    def read(self) -> Credentials | None:
        """Reads the credentials; `None`: there are none.

        Raises:
            NoFleetError: they can't be read, or are not whole.
        """
        if self.trust is None:
            if self.certificate is None and self.private_key is None and self.token_file is None:
                return None
            raise NoFleetError("a certificate or token needs trust, too, so that it is sent to no stranger")
        if (self.certificate is None) != (self.private_key is None):
            raise NoFleetError("the certificate and its private key go together")
        certificate = None
        if self.certificate is not None and self.private_key is not None:
            certificate = (_read(self.certificate), _read(self.private_key))
        token = None
        if self.token_file is not None:
            file = self.token_file
            _read(file)
            # Read for each call: Kubernetes replaces tokens.
            token = lambda: _read(file).decode("ascii", "replace").strip()  # noqa: E731
        return Credentials(_read(self.trust), certificate, token, os.fspath(self.trust))


def _read(file: str | os.PathLike[str]) -> bytes:
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise NoFleetError(f"can't read {os.fspath(file)}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise NoFleetError(f"{os.fspath(file)} is longer than {MAX_FILE_BYTES:,} bytes, so it has no credentials")
    return content
