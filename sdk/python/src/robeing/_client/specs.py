"""Tasks as they are submitted, from what users write."""

from __future__ import annotations

import getpass
import os
import time
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict, get_type_hints

from google.protobuf import duration_pb2, timestamp_pb2

from robeing._codec import decode_output, decoder, encode_input, encoder
from robeing._worker.definition import definition_of
from robeing.context import Context
from robeing.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Concatenate

    # A kind, or a handler whose input is not the value of its only parameter: its types say nothing of a submission.
    Loose = str | Callable[[], Any] | Callable[Concatenate[Any, Any, ...], Any]

# How many ids of the tasks of one map are drawn at once.
IDS_AT_ONCE = 64

# A number of seconds, or a timedelta.
Seconds = float | timedelta


class TaskOptions(TypedDict, total=False):
    """The options of a submission. Times are seconds or `timedelta`; what is not given is as the fleet has it."""

    id: str
    """A UUID of the task, so that a submission repeated with it is the same task."""
    key: str
    """Idempotency key: a submission with the same key, kind and input is the same task."""
    priority: int
    """1 (last) to 10 (first); 5 unless given."""
    deadline: Seconds
    """The task fails if it has not finished after this time."""
    delay: Seconds
    """The task is not started before this time has passed."""
    not_before: datetime
    """The task is not started before this time, by the fleet's clock; it has a time zone."""
    queue_expiry: Seconds
    """The task fails if no agent has taken it within this time."""
    attempt_timeout: Seconds
    """How long one attempt may take."""
    progress_timeout: Seconds
    """How long an attempt may run without progress; beyond it, another agent gets the task."""
    max_attempts: int
    """How often the task is tried, with the first attempt."""
    initial_backoff: Seconds
    """The pause before the second attempt; it grows with each."""
    max_backoff: Seconds
    """The longest pause between attempts."""
    jitter: float
    """By which part of it, 0 to 1, a pause may be shortened by chance."""
    non_retryable: Sequence[str]
    """Names of failures after which the task is not tried again: of exceptions, such as `"ValueError"`."""
    role: str
    """Only agents of this role run the task: worker, specialist, messenger or guardian."""
    specialization: str
    """Only agents with this specialization run the task."""
    slots: int
    """How many slots of its agent an attempt takes; as its kind says unless given, or one."""
    queue: str
    """The queue that the task waits in, which is set before."""
    limit_key: str
    """What limits of the queue are about, such as the name of a customer."""
    agents: int
    """Among how many agents the task is split, as the splitter of its kind does it; as its kind says unless given."""
    depends_on: Sequence[str]
    """Ids of tasks that must have succeeded before the task is started; it fails if one does not."""
    result_ttl: Seconds
    """How long the finished task is kept."""
    submitter: str
    """Who submits it, for lists and fair shares; ROBEING_SUBMITTER or the user's name unless given."""
    team: str
    """Only members of this team, a UUID, run the task."""
    room_for: float
    """How long to try again if the fleet has no room for the task, seconds."""
    template: types_pb2.TaskSpec
    """What else the task has, such as `verify` or `resources`."""


_DURATIONS = {
    "deadline": "deadline_in",
    "delay": "delay",
    "queue_expiry": "queue_expiry",
    "progress_timeout": "progress_timeout",
    "attempt_timeout": "attempt_timeout",
    "result_ttl": "result_ttl",
}
# What has a field of its own type.
_PLAIN = {
    "id": "id",
    "key": "idempotency_key",
    "priority": "priority",
    "specialization": "required_specialization",
    "slots": "slots",
    "queue": "queue",
    "limit_key": "limit_key",
    "agents": "agents",
    "team": "team",
}
_BACKOFFS = ("initial_backoff", "max_backoff")
_ROLES = {name.removeprefix("ROLE_").lower(): number for name, number in types_pb2.Role.items() if number}


class Form:
    """How the tasks of one kind are written, with their options; and how their outputs are read."""

    def __init__(self, task: str | Callable[..., Any], options: TaskOptions, *, is_many: bool = False) -> None:
        if is_many and (options.keys() & {"id", "key"}):
            raise TypeError("many tasks can't have the same id or key; submit each by itself")
        self.kind, self._encode, self.decode = _read(task)
        template = _template(self.kind, options) if options else None
        # As bytes: to read a message takes less time than to copy it.
        self._template = _plain(self.kind, _submitter()) if template is None else template.SerializeToString()
        self._ids = None if template is not None and template.id else task_ids(IDS_AT_ONCE if is_many else 1)
        self._room_for = options.get("room_for")

    def room_for(self, default: float) -> float:
        """Returns how long to try if the fleet has no room, seconds."""
        return default if self._room_for is None else self._room_for

    def input(self, value: object) -> bytes:
        """Writes an input.

        Raises:
            BadValueError: it can't be written.
        """
        return self._encode(value)

    def spec(self, value: object) -> types_pb2.TaskSpec:
        """Returns a task with this input, with an id.

        Raises:
            BadValueError: the input can't be written.
        """
        spec = types_pb2.TaskSpec.FromString(self._template)
        spec.input = self._encode(value)
        if self._ids is not None:
            spec.id = next(self._ids)
        return spec


def new_task_id() -> str:
    """Makes the id of a task."""
    return next(task_ids(1))


def task_ids(at_once: int) -> Iterator[str]:
    """Makes the ids of tasks: UUIDs of version 7, which sort by the time of their creation.

    The random parts of `at_once` of them are drawn together. They are for one call: a copy of this process would make
    the same ones.
    """
    made = -1
    while True:
        digits = os.urandom(10 * at_once).hex()
        for first in range(0, len(digits), 20):
            now = time.time_ns() // 1_000_000
            if now != made:
                made = now
                time_digits = f"{now & (2**48 - 1):012x}"
                beginning = f"{time_digits[:8]}-{time_digits[8:]}-7"
            random = digits[first : first + 20]
            # Two bits of this digit are fixed.
            variant = "89ab"[int(random[3], 16) & 3]
            yield f"{beginning}{random[:3]}-{variant}{random[4:7]}-{random[7:19]}"


# A program has few kinds, and submits many tasks of each.
@lru_cache(maxsize=256)
def _read(task: str | Callable[..., Any]) -> tuple[str, Callable[[Any], bytes], Callable[[bytes], Any]]:
    if isinstance(task, str):
        return task, encode_input, decode_output
    definition = definition_of(task)
    if definition is None:
        raise TypeError(
            f"{task!r} is no handler of tasks; decorate it with @app.task(kind), or give the kind as a string"
        )
    hints = get_type_hints(task, include_extras=True)
    decode = decoder(hints.pop("return", Any))
    inputs = [hint for hint in hints.values() if hint is not Context]
    return definition.kind, encoder(inputs[0]) if len(inputs) == 1 else encode_input, decode


@lru_cache(maxsize=256)
def _plain(kind: str, submitter: str) -> bytes:
    return types_pb2.TaskSpec(kind=kind, submitter=submitter).SerializeToString()


def _template(kind: str, options: TaskOptions) -> types_pb2.TaskSpec:
    unknown = options.keys() - TaskOptions.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"{', '.join(sorted(unknown))} is no option of a task; there are {', '.join(TaskOptions.__annotations__)}"
        )
    spec = types_pb2.TaskSpec()
    if "template" in options:
        spec.CopyFrom(options["template"])
    spec.kind = kind
    given: dict[str, Any] = dict(options)
    for option, name in _PLAIN.items():
        if option in given:
            setattr(spec, name, given[option])
    for option, name in _DURATIONS.items():
        if option in given:
            getattr(spec, name).CopyFrom(duration(given[option]))
    _set_retries(spec, given)
    if "not_before" in given:
        spec.not_before.CopyFrom(_timestamp(given["not_before"]))
    for task in _several(given, "depends_on"):
        spec.depends_on.add(task=task)
    if "role" in given:
        spec.required_role = _role(given["role"])
    spec.submitter = given.get("submitter") or spec.submitter or _submitter()
    return spec


def _set_retries(spec: types_pb2.TaskSpec, given: dict[str, Any]) -> None:
    for option in _BACKOFFS:
        if option in given:
            getattr(spec.retry, option).CopyFrom(duration(given[option]))
    if "max_attempts" in given:
        spec.retry.max_attempts = given["max_attempts"]
    if "jitter" in given:
        spec.retry.jitter_percent = _percent(given["jitter"])
    for failure in _several(given, "non_retryable"):
        spec.retry.non_retryable.add(name=failure)


def _several(given: dict[str, Any], option: str) -> Sequence[str]:
    texts: Sequence[str] = given.get(option, ())
    # Each letter of a text is a text, too.
    if isinstance(texts, str):
        raise TypeError(f"{option} is a list, but is {texts!r}")
    return texts


def _role(name: str) -> types_pb2.Role.ValueType:
    number = _ROLES.get(name.lower())
    if number is None:
        raise ValueError(f"{name!r} is no role; there are {', '.join(_ROLES)}")
    return number


def _percent(share: float) -> int:
    if not 0 <= share <= 1:
        raise ValueError(f"jitter is from 0 to 1, but is {share}")
    return round(100 * share)


def _timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone: write datetime.now(timezone.utc), for example")
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(time)
    return stamp


def duration(given: Seconds) -> duration_pb2.Duration:
    """Returns a time as a message."""
    nanos = round((given.total_seconds() if isinstance(given, timedelta) else given) * 1_000_000_000)
    if nanos < 0:
        raise ValueError(f"a time can't be negative, but is {given}")
    return duration_pb2.Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def _submitter() -> str:
    said = os.environ.get("ROBEING_SUBMITTER") or os.environ.get("USER")
    return said or _user()


@lru_cache(maxsize=1)
def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "anonymous"
