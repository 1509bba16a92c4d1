"""The coordinators of a fleet, and the connections to them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grpc import aio

from robeing._client.credentials import COORDINATOR_NAME, Credentials
from robeing.v1.fleet_pb2_grpc import FleetStub

if TYPE_CHECKING:
    from robeing.v1.fleet_pb2_grpc import FleetAsyncStub

# The largest message of a coordinator, bytes.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# A silent connection is sent a ping after this time, and closed if the ping is not answered within the same time.
KEEP_ALIVE_MS = 2_000
# The pauses between attempts to connect. The client has its own, which are no longer.
RECONNECT_MS = 100

_OPTIONS = (
    ("grpc.keepalive_time_ms", KEEP_ALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEP_ALIVE_MS),
    # This one counts in the versions of gRPC since 2024, and is a minute otherwise.
    ("grpc.http2.ping_timeout_ms", KEEP_ALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


@dataclass
class Target:
    """A coordinator."""

    # The name that users know it by.
    name: str
    host: str
    port: int
    credentials: Credentials | None
    _channel: aio.Channel | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{self.host}:{self.port}"

    @property
    def stub(self) -> FleetAsyncStub:
        """Calls to it. They connect when the first one is made."""
        return FleetStub(self.channel)

    @property
    def channel(self) -> aio.Channel:
        """The connection."""
        if self._channel is None:
            if self.credentials is None:
                self._channel = aio.insecure_channel(self.address, options=_OPTIONS)
            else:
                options = (*_OPTIONS, ("grpc.ssl_target_name_override", COORDINATOR_NAME))
                self._channel = aio.secure_channel(
                    self.address, self.credentials.channel_credentials(), options=options
                )
        return self._channel

    async def close(self) -> None:
        """Closes the connection."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    async def takes_connections(self) -> None:
        """Connects once, to see whether somebody listens.

        Raises:
            OSError: nobody does.
        """
        _, writer = await asyncio.open_connection(self.host.strip("[]"), self.port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def speaks_tls(self, within: float) -> bool:
        """Returns whether the server answers a TLS handshake, whoever it is."""
        context = ssl.create_default_context()
        context.check_hostname = False
        # Nothing is sent over this connection.
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        opening = asyncio.open_connection(self.host.strip("[]"), self.port, ssl=context)
        try:
            _, writer = await asyncio.wait_for(opening, within)
        except (OSError, asyncio.TimeoutError):
            return False
        writer.transport.abort()
        return True
