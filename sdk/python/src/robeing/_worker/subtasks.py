"""Subtasks that a task waits for without holding a slot: how they are asked for, and what comes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robeing._client.specs import Form, duration
from robeing.errors import SubtaskError
from robeing.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from robeing._client.specs import Seconds
    from robeing.context import SubtaskOptions

_MILLIS = {"deadline": "deadline_in_ms", "delay": "delay_ms", "attempt_timeout": "time_limit_ms"}
_OTHERS = {"priority": "priority", "max_attempts": "max_attempts", "specialization": "required_specialization"}


def subtasks(form: Form, inputs: Iterable[Any], options: SubtaskOptions) -> list[wire.Subtask]:
    """Returns a subtask for each input.

    Raises:
        TypeError: an option is none of theirs.
        BadValueError: an input can't be written.
    """
    template = wire.Subtask(kind=form.kind)
    given: dict[str, Any] = dict(options)
    for option, value in given.items():
        if option in _MILLIS:
            setattr(template, _MILLIS[option], _millis(value))
        elif option in _OTHERS:
            setattr(template, _OTHERS[option], value)
        else:
            raise TypeError(f"{option} is no option of a subtask; there are {', '.join([*_MILLIS, *_OTHERS])}")
    asked = []
    for value in inputs:
        one = wire.Subtask()
        one.CopyFrom(template)
        one.input = form.input(value)
        asked.append(one)
    return asked


def outputs(results: Sequence[wire.GivenResult], form: Form) -> list[Any]:
    """Returns the outputs of subtasks.

    Raises:
        SubtaskError: one of them has none.
    """
    for index, result in enumerate(results):
        if result.state != wire.RESULT_STATE_SUCCEEDED:
            raise SubtaskError(index, result.reason or wire.ResultState.Name(result.state))
        if result.HasField("stored"):
            where = "is in the object store, from which this package fetches nothing"
            raise SubtaskError(index, f"its output has {result.stored.bytes} bytes and {where}; return less")
    return [form.decode(result.output) for result in results]


def _millis(given: Seconds) -> int:
    return max(1, duration(given).ToMilliseconds())
