"""The Python SDK of Robeing: run tasks of a fleet, and submit them.

`App` has the handlers of a program, which run tasks that agents give them. `Fleet` is a client, which submits tasks and
waits for their results. The messages of the API are in `robeing.v1`.
"""

from robeing._codec import Text
from robeing.app import App
from robeing.context import Context, Fence, Given, SubtaskOptions, current
from robeing.errors import (
    BadValueError,
    FleetError,
    NoFleetError,
    NotFoundError,
    NotStartedError,
    PermanentError,
    RefusedError,
    RobeingError,
    SubmitError,
    SubtaskError,
    TaskCancelledError,
    TaskDeadLetteredError,
    TaskError,
    TaskExpiredError,
    TaskFailedError,
    UnavailableError,
    UntrustedError,
)
from robeing.fleet import Fleet, Result, TaskHandle, TaskOptions

__all__ = [
    "App",
    "BadValueError",
    "Context",
    "Fence",
    "Fleet",
    "FleetError",
    "Given",
    "NoFleetError",
    "NotFoundError",
    "NotStartedError",
    "PermanentError",
    "RefusedError",
    "Result",
    "RobeingError",
    "SubmitError",
    "SubtaskError",
    "SubtaskOptions",
    "TaskCancelledError",
    "TaskDeadLetteredError",
    "TaskError",
    "TaskExpiredError",
    "TaskFailedError",
    "TaskHandle",
    "TaskOptions",
    "Text",
    "UnavailableError",
    "UntrustedError",
    "current",
]
