"""Subtasks: tasks that a handler submits for its own, which another attempt of it finds again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robeing._client.specs import Form, duration, new_task_id
from robeing.v1 import types_pb2

if TYPE_CHECKING:
    from robeing._client.many import ToSpec
    from robeing.context import Fence


@dataclass(frozen=True)
class Part:
    """What the subtasks have in common that a handler asks for at once."""

    # The attempt that asks for them.
    fence: Fence
    # The handler's first, second, … request.
    number: int
    # Seconds until the attempt ends, if it has a limit.
    remaining: float | None

    def mark(self, spec: types_pb2.TaskSpec, index: int) -> None:
        """Gives a subtask the key by which another attempt finds it, and the end of this attempt."""
        spec.idempotency_key = f"{self.fence.task_id}/{self.number}/{index}"
        if self.remaining is not None and not spec.HasField("deadline_in"):
            spec.deadline_in.CopyFrom(duration(self.remaining))

    def again(self, spec: types_pb2.TaskSpec) -> types_pb2.TaskSpec:
        """Returns a subtask that failed for an earlier attempt, as a new one of this attempt."""
        fresh = types_pb2.TaskSpec()
        fresh.CopyFrom(spec)
        fresh.id = new_task_id()
        fresh.idempotency_key = f"{spec.idempotency_key}/{self.fence.attempt}"
        return fresh


def specs_of(form: Form, part: Part | None = None) -> ToSpec:
    """Returns what makes a task of each of many inputs."""
    if part is None:
        return lambda value, _: form.spec(value)

    def spec(value: object, index: int) -> types_pb2.TaskSpec:
        subtask = form.spec(value)
        part.mark(subtask, index)
        return subtask

    return spec
