"""Calls that are retried at other coordinators.

Any coordinator serves any call, so one that a coordinator does not answer is made again at the next one, within a time
limit that the user sets. Every call can be repeated safely, because the caller makes the ids of tasks.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

import grpc
from grpc import aio

from robeing.errors import FleetError, NoFleetError, NotFoundError, RefusedError, UnavailableError, UntrustedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from robeing._client.target import Target
    from robeing.v1.fleet_pb2_grpc import FleetAsyncStub

# How long a client waits for a coordinator to accept a connection before it says that there is no fleet, seconds.
CONNECT_TIMEOUT = 3.0
# How long a call is tried, over all coordinators, unless the user says otherwise, seconds.
REQUEST_TIMEOUT = 10.0
# How long one coordinator has to answer while there are others to try, seconds.
ATTEMPT_TIMEOUT = 3.0
# The pause after every coordinator has failed once, seconds; it doubles up to the longest.
FIRST_PAUSE = 0.025
LONGEST_PAUSE = 0.4

_MAY_PASS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
)
# What gRPC says of a stream that broke, in grpc/_cython/_cygrpc/aio/call.pyx.pxi.
_BROKEN = "Internal error from Core"
# What gRPC says of a server whose certificate it does not take.
_NOT_TRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification", "certificate verify failed")

T = TypeVar("T")


class Calls:
    """The coordinators of a fleet, and which of them is called now."""

    def __init__(self, targets: Sequence[Target], request_timeout: float = REQUEST_TIMEOUT) -> None:
        if not targets:
            raise NoFleetError("no endpoint was given")
        self.targets = list(targets)
        self.request_timeout = request_timeout
        self._current = 0
        # Whether a coordinator has accepted a connection. From then on the fleet is known to exist.
        self._contacted = False

    @property
    def current(self) -> Target:
        """The coordinator that is called now."""
        return self.targets[self._current]

    @property
    def endpoints(self) -> str:
        """The coordinators, for messages."""
        return ", ".join(dict.fromkeys(target.name for target in self.targets))

    async def call(self, attempt: Callable[[FleetAsyncStub, float], Awaitable[T]], extra: float = 0.0) -> T:
        """Makes a call, until a coordinator answers it. `attempt` gets the seconds that it may take.

        An answer may take `extra` seconds longer than usual, because the call waits for something.

        Raises:
            FleetError: the fleet refuses the call, or does not answer it.
        """
        await self.contact()
        tries = Tries(self, extra)
        while True:
            target = self.current
            within = tries.attempt_ends() - time.monotonic()
            try:
                return await attempt(target.stub, max(within, 0.001))
            except aio.AioRpcError as error:
                await tries.failed(target, error)

    async def contact(self) -> None:
        """Finds a coordinator that accepts connections; does nothing once one has.

        Raises:
            NoFleetError: none does.
        """
        if self._contacted:
            return

        async def dial(index: int, target: Target) -> int:
            await asyncio.wait_for(target.takes_connections(), CONNECT_TIMEOUT)
            return index

        dials = [asyncio.ensure_future(dial(index, target)) for index, target in enumerate(self.targets)]
        causes: list[str] = []
        try:
            for dialled in asyncio.as_completed(dials):
                try:
                    self._current = await dialled
                except asyncio.TimeoutError:
                    causes.append(f"no connection within {CONNECT_TIMEOUT:g} s")
                except OSError as error:
                    causes.append(_cause_of(error))
                else:
                    self._contacted = True
                    return
        finally:
            for pending in dials:
                pending.cancel()
            await asyncio.gather(*dials, return_exceptions=True)
        raise NoFleetError(f"no fleet answers at {self.endpoints} ({'; '.join(dict.fromkeys(causes))})")

    def fail_over(self, target: Target) -> None:
        """Moves from a coordinator to the next, unless another call already has."""
        if target is self.current:
            self._current = (self._current + 1) % len(self.targets)

    async def close(self) -> None:
        """Closes the connections."""
        for target in self.targets:
            await target.close()


class Tries:
    """The retries of one call: its deadline, and the pauses between rounds."""

    def __init__(self, calls: Calls, extra: float = 0.0) -> None:
        self._calls = calls
        self._extra = extra
        self.succeeded()

    def succeeded(self) -> None:
        """Restarts the time limit and the pauses, after an answer."""
        self.began = time.monotonic()
        self._failures = 0
        self._distrusts = 0
        self._pause = FIRST_PAUSE

    @property
    def ends(self) -> float:
        """When the call is given up, by `time.monotonic()`."""
        return self.began + self._calls.request_timeout + self._extra

    def attempt_ends(self) -> float:
        """Returns when an attempt that starts now is given up."""
        if len(self._calls.targets) == 1:
            return self.ends
        return min(self.ends, time.monotonic() + ATTEMPT_TIMEOUT + self._extra)

    async def failed(self, target: Target, error: aio.AioRpcError) -> None:
        """Takes in a failed attempt, and pauses if all coordinators have failed in this round.

        Raises:
            FleetError: the failure, if another attempt would not help, or there is no time for one.
        """
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise NoFleetError(
                f"the server at {target.name} is not a Robeing coordinator, or of an older version ({error.details()})"
            )
        if error.code() not in _MAY_PASS and not is_local(error):
            raise refused(error)
        distrust = await self._distrust(target, error)
        self._distrusts = self._distrusts + 1 if distrust is not None else 0
        self._calls.fail_over(target)
        self._failures += 1
        is_round = self._failures % len(self._calls.targets) == 0
        pause = self._pause if is_round else 0.0
        is_late = time.monotonic() + pause >= self.ends
        if distrust is not None and (is_late or self._distrusts >= len(self._calls.targets)):
            raise distrust
        if is_late:
            waited = time.monotonic() - self.began
            cause = error.details() or error.code().name
            raise UnavailableError(
                f"the fleet at {self._calls.endpoints} has not answered for {waited:.1f} s ({cause})"
            )
        if is_round:
            await asyncio.sleep(pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _distrust(self, target: Target, error: aio.AioRpcError) -> FleetError | None:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return None
        details = error.details() or ""
        if target.credentials is not None:
            if any(said in details for said in _NOT_TRUSTED):
                source = target.credentials.source
                return UntrustedError(
                    f"the coordinator at {target.name} is not trusted: its certificate is not from an authority in "
                    f"{source}"
                )
            return None
        # Asked once: without TLS at both ends nothing is ever answered.
        if self._failures == 0 and await target.speaks_tls(CONNECT_TIMEOUT):
            return UntrustedError(
                f"the server at {target.name} speaks TLS: say whom to trust by trust=FILE or ROBEING_TRUST, and give a "
                "certificate or token that `robeing client create` or Kubernetes made"
            )
        return None


def is_local(error: aio.AioRpcError) -> bool:
    """Returns whether gRPC itself made an error, because a stream broke while something was written to it.

    The status that the other side sent, if it sent any, is lost then.
    """
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _BROKEN


def refused(error: aio.AioRpcError) -> RefusedError:
    """Returns the error of a call that the fleet refused."""
    code, message = error.code().name, error.details() or ""
    return NotFoundError(code, message) if error.code() is grpc.StatusCode.NOT_FOUND else RefusedError(code, message)


def _cause_of(error: OSError) -> str:
    return "connection refused" if isinstance(error, ConnectionRefusedError) else error.strerror or str(error)
