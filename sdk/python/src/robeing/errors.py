"""The errors of the SDK: those that handlers raise, and those that a client gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robeing.v1 import types_pb2

__all__ = [
    "BadValueError",
    "FleetError",
    "NoFleetError",
    "NotFoundError",
    "NotStartedError",
    "PermanentError",
    "RefusedError",
    "RobeingError",
    "SubmitError",
    "SubtaskError",
    "TaskCancelledError",
    "TaskDeadLetteredError",
    "TaskError",
    "TaskExpiredError",
    "TaskFailedError",
    "UnavailableError",
    "UntrustedError",
]


class RobeingError(Exception):
    """The base of all errors of this package."""


class TaskError(RobeingError):
    """Raised by a handler: this attempt failed, and another one may succeed.

    Any other exception means the same; this one also has an error number (`code`), which the fleet keeps.
    """

    permanent = False

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class PermanentError(TaskError):
    """Raised by a handler: every other attempt would fail in the same way, so the fleet makes none."""

    permanent = True


class BadValueError(RobeingError, ValueError):
    """An input or output is not of the type that the handler declares."""


class NotStartedError(RobeingError):
    """A process can't start to run tasks, because the app or its surroundings are wrong."""


class FleetError(RobeingError):
    """The base of all errors that a client gets."""


class NoFleetError(FleetError):
    """There is no fleet: none was found, or nothing answers at its endpoints, or what answers is no coordinator."""


class UntrustedError(FleetError):
    """The client and the coordinator do not trust each other's certificates."""


class UnavailableError(FleetError):
    """The fleet was reached, but did not answer within the time limit of the call."""


class RefusedError(FleetError):
    """The fleet refused a call or a task; `code` is the name of the gRPC status code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the fleet refused ({code}): {message}")
        self.code = code
        self.message = message


class NotFoundError(RefusedError):
    """The task does not exist, or its result has expired."""


class SubmitError(FleetError):
    """Some of many tasks were not accepted.

    `failures` has the index and the error of each; the others are in `accepted`, by index, with their ids.
    """

    def __init__(self, failures: Sequence[tuple[int, FleetError]], accepted: dict[int, str]) -> None:
        index, error = failures[0]
        super().__init__(
            f"{len(failures)} of {len(failures) + len(accepted)} tasks were not accepted; the first, number {index}: "
            f"{error}"
        )
        self.failures = list(failures)
        self.accepted = accepted


class TaskFailedError(FleetError):
    """A task finished without a result. `task` is the task, and `failure` its failure, if it has one."""

    def __init__(self, task: types_pb2.Task, message: str) -> None:
        super().__init__(message)
        self.task = task

    @property
    def failure(self) -> types_pb2.Failure | None:
        """The failure of the last attempt."""
        return self.task.failure if self.task.HasField("failure") else None

    @property
    def details(self) -> str:
        """The end of the remote traceback, or of what the command wrote to stderr."""
        return self.task.failure.stderr_tail


class TaskDeadLetteredError(TaskFailedError):
    """The attempts of a task are used up, and the last one timed out, or was lost or handed back."""


class TaskCancelledError(TaskFailedError):
    """A task was cancelled. This is no `asyncio.CancelledError`: what waited for the task goes on."""


class SubtaskError(RobeingError):
    """A subtask did not succeed. `index` is its place among those that were asked for, and `reason` why, as text."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"subtask {index} did not succeed: {reason}")
        self.index = index
        self.reason = reason


class TaskExpiredError(FleetError):
    """A task was accepted and finished, but its result expired before it was read."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} finished, but its result has expired; submit with a longer result_ttl")
        self.task_id = task_id
