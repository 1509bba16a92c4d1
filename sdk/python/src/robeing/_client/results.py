"""What finished tasks give: their outputs, or the errors that they ended with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robeing.errors import FleetError, TaskCancelledError, TaskDeadLetteredError, TaskFailedError
from robeing.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

_SUCCEEDED = types_pb2.TASK_STATE_SUCCEEDED


def output_of(task: types_pb2.Task, decode: Callable[[bytes], Any]) -> Any:
    """Returns the output of a finished task.

    Raises:
        TaskFailedError: it has none.
        FleetError: it is in the object store.
        BadValueError: it is not of the declared type.
    """
    error = error_of(task)
    if error is not None:
        raise error
    return decode(task.output)


def error_of(task: types_pb2.Task) -> FleetError | None:
    """Returns why a finished task has no output here; `None` if it has."""
    is_stored = task.HasField("output_ref")
    if task.state == _SUCCEEDED and not is_stored:
        return None
    name = f"task {task.id} ({task.kind})"
    if is_stored:
        where = f"has {task.output_ref.bytes} bytes and is in the object store"
        fetch = f"robeing task {task.id} --result --object-store URL"
        return FleetError(f"the output of {name} {where}; fetch it by `{fetch}`")
    if task.state == types_pb2.TASK_STATE_CANCELLED:
        reason = f": {task.cancel_reason}" if task.cancel_reason else ""
        return TaskCancelledError(task, f"{name} was cancelled{reason}")
    if task.state == types_pb2.TASK_STATE_DEAD_LETTERED:
        return TaskDeadLetteredError(task, f"{name} has no result after {_attempts(task)}: {task.failure.message}")
    message = f"{name} failed after {_attempts(task)}: {task.failure.message}"
    if task.failure.stderr_tail:
        message += "\n" + task.failure.stderr_tail.rstrip()
    return TaskFailedError(task, message)


def _attempts(task: types_pb2.Task) -> str:
    return "1 attempt" if task.attempts_used == 1 else f"{task.attempts_used} attempts"
