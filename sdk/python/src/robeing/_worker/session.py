"""The session with one agent: what it gives, and what became of it, over one stream.

Invariants:

1. Each attempt is answered once, by its outcome. One that was told to stop is answered when it has ended.
2. When the stream ends, all that it gave is stopped, because the fleet runs it elsewhere. That is also so when the
   agent is frozen: it does not answer pings then.
3. Nothing waits without a bound: an agent gives no more attempts than it has slots, and what it does not read is
   dropped at a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

import grpc
from grpc import aio

from robeing._worker.outcome import Failed, Outcome, Stopped, Suspended
from robeing._worker.outgoing import Outgoing
from robeing._worker.reports import Reports, cut
from robeing.context import Context
from robeing.worker.v1 import worker_pb2 as wire
from robeing.worker.v1.worker_pb2_grpc import WorkerStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from robeing._worker.runner import Runner
    from robeing.context import Report
    from robeing.fleet import Fleet

log = logging.getLogger("robeing")

# A silent agent is sent a ping after this time, and is taken for frozen if it does not answer within the same time.
KEEP_ALIVE_MS = 1_000
# The largest message that an agent sends or takes: a task's input has 1 MiB at most.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# The most messages that wait to be sent, besides the results, of which there are no more than the agent has slots.
MAX_UNSENT = 8_192
# How long handlers have to end when the stream has ended, seconds. Those that take longer go on without it.
STOP_WITHIN = 5.0
# The most bytes of the process's name, and of that of a failure.
MAX_NAME_BYTES = 63
MAX_FAILURE_NAME_BYTES = 128

_OPTIONS = (
    ("grpc.keepalive_time_ms", KEEP_ALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEP_ALIVE_MS),
    # This one counts in the versions of gRPC since 2024, and is a minute otherwise.
    ("grpc.http2.ping_timeout_ms", KEEP_ALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # The agent is on the same machine.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)

_Key = tuple[str, int]
_Stream = aio.StreamStreamCall[wire.FromProcess, wire.ToProcess]


class _Attempt:
    """An attempt that runs."""

    __slots__ = ("context", "has_begun", "key", "reports", "task")

    def __init__(self, key: _Key, context: Context) -> None:
        self.key = key
        self.context = context
        self.has_begun = False
        self.reports: Reports | None = None
        self.task: asyncio.Task[None]


class Session:
    """A session with the agent at an address."""

    def __init__(self, runner: Runner, address: str, name: str, fleet: Callable[[], Fleet] | None = None) -> None:
        self._runner = runner
        self._address = address
        self._name = name.encode()[:MAX_NAME_BYTES].decode("utf-8", "ignore")
        self._fleet = fleet
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._running: dict[_Key, _Attempt] = {}
        self._unsent = Outgoing()
        self._is_writing = False
        self._sent = asyncio.Event()
        self._flushing: set[asyncio.Task[None]] = set()
        self._stream: _Stream | None = None
        self._has_ended = asyncio.Event()
        self._checks: set[asyncio.Task[None]] = set()
        self._max_output = 0
        # Whether the agent has accepted this process.
        self.was_welcome = False

    async def attach(self) -> None:
        """Runs what the agent gives until the stream ends.

        Raises:
            aio.AioRpcError: why it ended, or never began.
        """
        async with aio.insecure_channel(self._address, options=_OPTIONS) as channel:
            stream: _Stream = WorkerStub(channel).Attach()
            self._stream = stream
            hello = wire.Hello(name=self._name, answers_health_checks=True, takes_batches=True)
            self._send(wire.FromProcess(hello=hello))
            try:
                await self._read(stream)
            finally:
                self._has_ended.set()
                await self._stop_all()
                stream.cancel()

    async def finish(self) -> None:
        """Ends the stream once all results were sent, and waits until the agent has ended it, too."""
        while self._flushing or self._is_writing:
            self._sent.clear()
            await self._sent.wait()
        if self._stream is not None:
            with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
                await self._stream.done_writing()
            await self._has_ended.wait()

    async def _flush(self) -> None:
        """Sends what there is to be sent, unless that is being done."""
        stream = self._stream
        if self._is_writing or stream is None:
            return
        self._is_writing = True
        unsent = self._unsent
        try:
            if unsent.takes_batches and self._running:
                # Others may end in this turn of the event loop, too, and all of them leave as one message.
                await asyncio.sleep(0)
            while unsent:
                await stream.write(unsent.take())
        except (aio.AioRpcError, asyncio.InvalidStateError):
            # The stream has ended, which reading notices.
            unsent.clear()
        finally:
            self._is_writing = False
            self._sent.set()

    def _flush_soon(self) -> None:
        if not self._is_writing:
            flushing = self._loop.create_task(self._flush())
            self._flushing.add(flushing)
            flushing.add_done_callback(self._flushed)

    def _flushed(self, flushing: asyncio.Task[None]) -> None:
        self._flushing.discard(flushing)
        self._sent.set()

    async def _read(self, stream: _Stream) -> None:
        while True:
            message = await stream.read()
            if not isinstance(message, wire.ToProcess):
                # The end of the stream.
                return
            which = message.WhichOneof("message")
            if which == "batch":
                for task in message.batch.tasks:
                    self._begin(task)
            elif which == "task":
                self._begin(message.task)
            elif which == "stop":
                self._stop(message.stop)
            elif which == "health_check":
                check = self._loop.create_task(self._answer(message.health_check.seq))
                self._checks.add(check)
                check.add_done_callback(self._checks.discard)
            elif which == "welcome":
                self._welcome(message.welcome)

    def _welcome(self, welcome: wire.Welcome) -> None:
        self.was_welcome = True
        self._max_output = welcome.max_output_bytes
        self._unsent.takes_batches = welcome.takes_batches
        slots = f"{welcome.slots} task{'' if welcome.slots == 1 else 's'} at once"
        log.info("attached to %s at %s, which runs %s", welcome.agent, self._address, slots)

    def _begin(self, task: wire.Task) -> None:
        if self._runner.draining:
            # It fails when this process leaves, and runs elsewhere.
            return
        key = (task.task_id, task.attempt)
        if key in self._running:
            return
        within = task.deadline_in_ms or task.time_limit_ms
        ends = None
        if within:
            ends = time.monotonic() + min(within, task.time_limit_ms or within) / 1_000
        context = Context(task.task_id, task.attempt, task.kind, ends=ends, report=self._report, fleet=self._fleet)
        if task.carried or task.results:
            context._given = (task.carried, task.results)
        attempt = _Attempt(key, context)
        self._running[key] = attempt
        self._runner.began()
        attempt.task = self._loop.create_task(self._run(attempt, task.input))

    async def _run(self, attempt: _Attempt, data: bytes) -> None:
        attempt.has_begun = True
        outcome: Outcome = Stopped()
        try:
            outcome = await self._runner.run(attempt.context, data)
        except asyncio.CancelledError:
            # It was stopped while it waited to be run.
            pass
        except Exception as error:
            log.exception("an attempt could not be run")
            outcome = Failed(f"the process could not run it: {type(error).__qualname__}: {error}")
        finally:
            self._ended(attempt, outcome)
        # Here, and not by another task: that is one step of the event loop less for each attempt.
        await self._flush()

    def _stop(self, stop: wire.Stop) -> None:
        attempt = self._running.get((stop.task_id, stop.attempt))
        if attempt is not None:
            self._end(attempt)

    def _end(self, attempt: _Attempt) -> None:
        attempt.context._stop()
        attempt.task.cancel()
        if not attempt.has_begun:
            # Nothing of it will run.
            self._ended(attempt, Stopped())
            self._flush_soon()

    def _ended(self, attempt: _Attempt, outcome: Outcome) -> None:
        del self._running[attempt.key]
        if attempt.reports is not None:
            attempt.reports.flush()
        self._unsent.add(self._result(attempt.key, outcome))
        self._runner.ended()

    def _result(self, key: _Key, outcome: Outcome) -> wire.TaskResult:
        task_id, number = key
        if isinstance(outcome, bytes):
            if len(outcome) <= self._max_output:
                return wire.TaskResult(task_id=task_id, attempt=number, output=outcome)
            size = f"{len(outcome):,} bytes, of which {self._max_output:,} are allowed"
            outcome = Failed(f"the output has {size}; return less, or a reference", permanent=True)
        if isinstance(outcome, Suspended):
            suspend = wire.Suspend(subtasks=outcome.subtasks, carried=outcome.carried)
            return wire.TaskResult(task_id=task_id, attempt=number, suspend=suspend)
        if isinstance(outcome, Stopped):
            return wire.TaskResult(task_id=task_id, attempt=number, stopped=wire.Stopped())
        failure = wire.Failure(
            message=outcome.message,
            code=outcome.code,
            details=outcome.details,
            permanent=outcome.permanent,
            name=cut(outcome.name, MAX_FAILURE_NAME_BYTES),
        )
        return wire.TaskResult(task_id=task_id, attempt=number, failure=failure)

    def _report(self, context: Context, report: Report) -> None:
        """Tells those who follow an attempt something, in any thread."""
        if threading.get_ident() != self._thread:
            # The loop may have ended while a thread goes on.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._report, context, report)
            return
        attempt = self._running.get((context.task_id, context.attempt))
        if attempt is None:
            # It has ended, or was stopped and goes on.
            return
        if attempt.reports is None:
            attempt.reports = Reports(self._loop, attempt.key, self._send)
        attempt.reports.take(report)

    def _send(self, message: wire.FromProcess) -> None:
        if len(self._unsent) < MAX_UNSENT:
            self._unsent.add(message)
        self._flush_soon()

    async def _answer(self, seq: int) -> None:
        unhealthy = await self._runner.unhealthy()
        self._send(wire.FromProcess(health=wire.Health(seq=seq, unhealthy=unhealthy)))

    async def _stop_all(self) -> None:
        for attempt in list(self._running.values()):
            self._end(attempt)
        attempts = [attempt.task for attempt in self._running.values()]
        for check in self._checks:
            check.cancel()
        if attempts:
            _, going_on = await asyncio.wait(attempts, timeout=STOP_WITHIN)
            if going_on:
                log.warning("%d handlers go on, though the fleet runs their tasks elsewhere", len(going_on))


def said(error: aio.AioRpcError) -> str:
    """Returns why an agent could not be attached to."""
    return "no agent answers" if error.code() is grpc.StatusCode.UNAVAILABLE else error.details() or error.code().name
