"""What became of an attempt, in a form that other processes can send."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robeing.errors import BadValueError, TaskError

if TYPE_CHECKING:
    from types import TracebackType

    from robeing.worker.v1.worker_pb2 import Subtask

# What agents keep of a failure's message and of the end of its details, bytes.
MAX_MESSAGE_BYTES = 4096
MAX_DETAILS_BYTES = 4096
# The most frames of a traceback that are written, the innermost ones. More would be cut anyway.
_MAX_FRAMES = 64
_HERE = str(Path(__file__).resolve().parent)


@dataclass(frozen=True)
class Failed:
    """The attempt failed."""

    message: str
    details: str = ""
    code: int | None = None
    permanent: bool = False
    # What kind of failure it is: the class of the exception.
    name: str = ""


@dataclass(frozen=True)
class Stopped:
    """The attempt ended because it was told to."""


@dataclass(frozen=True)
class Suspended:
    """The attempt ended because its task waits for subtasks."""

    subtasks: tuple[Subtask, ...]
    # What the next attempt is given besides their results.
    carried: bytes


# The output, or what there is instead of one.
Outcome = bytes | Failed | Stopped | Suspended


def failed(error: BaseException, permanent: tuple[type[BaseException], ...] = ()) -> Failed:
    """Returns the failure that an exception of a handler is; `permanent` are those that another attempt repeats."""
    name = type(error).__qualname__
    if isinstance(error, BadValueError):
        return Failed(_head(str(error)), permanent=True, name=name)
    if isinstance(error, TaskError):
        is_permanent = error.permanent or isinstance(error, permanent)
        return Failed(_head(_said(error)), _traceback(error), _int32(error.code), is_permanent, name)
    said = _said(error)
    message = _head(f"{name}: {said}" if said else name)
    return Failed(message, _traceback(error), permanent=isinstance(error, permanent), name=name)


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text can't be had)"


def _int32(code: int | None) -> int | None:
    return code if code is not None and -(2**31) <= code < 2**31 else None


def _head(text: str) -> str:
    return text.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore")


def _tail(text: str) -> str:
    return text.encode("utf-8", "replace")[-MAX_DETAILS_BYTES:].decode("utf-8", "ignore")


def _own_frames(frames: TracebackType | None) -> TracebackType | None:
    """Leaves out the frames of this package that called the handler."""
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_HERE):
        frames = frames.tb_next
    return frames


def _traceback(error: BaseException) -> str:
    try:
        frames = _own_frames(error.__traceback__)
        return _tail("".join(traceback.format_exception(type(error), error, frames, limit=-_MAX_FRAMES)))
    except Exception:
        # Such as a text of the exception that can't be had, or a source that is gone.
        return ""
