"""What a handler is: the kind of its tasks, how its inputs and outputs are written, and where it runs."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from robeing._codec import Decoder, Encoder, decoder, encoder, fields_decoder
from robeing._worker.journal import Suspend
from robeing._worker.outcome import Failed, Outcome, Stopped, failed
from robeing.context import Context, _current
from robeing.errors import BadValueError, NotStartedError

if TYPE_CHECKING:
    from collections.abc import Callable

# The attribute of functions that are handlers.
ATTRIBUTE = "__robeing_task__"
# Takes tasks of all kinds that have no handler of their own.
ANY_KIND = "*"

Where = Literal["loop", "thread", "process"]


@dataclass(frozen=True)
class Call:
    """How a handler is called, and what it returns is written."""

    # The arguments of a call with this input.
    bind: Callable[[bytes, Context], tuple[tuple[Any, ...], dict[str, Any]]]
    encode: Encoder


@dataclass
class Definition:
    """A handler of tasks."""

    kind: str
    function: Callable[..., Any]
    where: Where
    # The number of tasks of the kind that run at once in this process; `None`: as many as agents give it.
    slots: int | None = None
    # Exceptions that another attempt would repeat.
    permanent: tuple[type[BaseException], ...] = ()
    _call: Call | None = field(default=None, repr=False)

    @property
    def call(self) -> Call:
        """How the handler is called.

        Raises:
            NotStartedError: its annotations can't be used.
        """
        if self._call is None:
            self._call = _compile(self)
        return self._call

    def check(self) -> None:
        """Checks that the handler can run.

        Raises:
            NotStartedError: it can't.
        """
        _ = self.call
        if self.where != "process":
            return
        try:
            pickle.dumps(self.function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise NotStartedError(
                f"the handler of {self.kind!r} can't run in processes, because they can't import it: {error}; define "
                "it at the top level of a module"
            ) from None

    async def run_here(self, context: Context, data: bytes) -> Outcome:
        """Runs a coroutine to its end."""
        _current.set(context)
        try:
            arguments, named = self.call.bind(data, context)
        except BadValueError as error:
            return self._bad("input", error)
        try:
            returned = await self.function(*arguments, **named)
        except asyncio.CancelledError:
            return _cancelled(context)
        except Suspend as suspend:
            return suspend.outcome
        except BaseException as error:
            # Also what would end the process, such as SystemExit: the other tasks of the process must not end with it.
            return failed(error, self.permanent)
        return self._written(returned)

    def run_blocking(self, context: Context, data: bytes) -> Outcome:
        """Runs a function to its end, in the thread of the caller."""
        _current.set(context)
        try:
            arguments, named = self.call.bind(data, context)
        except BadValueError as error:
            return self._bad("input", error)
        try:
            returned = self.function(*arguments, **named)
        except asyncio.CancelledError:
            return _cancelled(context)
        except BaseException as error:
            return failed(error, self.permanent)
        return self._written(returned)

    def _written(self, returned: Any) -> Outcome:
        try:
            return self.call.encode(returned)
        except BadValueError as error:
            return self._bad("output", error)

    def _bad(self, what: str, error: BadValueError) -> Failed:
        return failed(BadValueError(f"the {what} of {self.kind!r} is wrong: {error}"))


def _cancelled(context: Context) -> Outcome:
    if context.cancelled:
        return Stopped()
    return Failed("CancelledError: the handler was cancelled, but not by the fleet")


def definition_of(function: Callable[..., Any]) -> Definition | None:
    """Returns the definition of a function that is a handler."""
    found = getattr(function, ATTRIBUTE, None)
    return found if isinstance(found, Definition) else None


def _compile(definition: Definition) -> Call:
    function = definition.function
    try:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
        given = {name: hints.get(name, Any) for name in parameters}
        contexts = [name for name, hint in given.items() if hint is Context]
        inputs = [parameter for parameter in parameters.values() if parameter.name not in contexts]
        bind = _binder(inputs, contexts, given)
        encode = encoder(hints.get("return", Any))
    except (NameError, TypeError, ValueError) as error:
        raise NotStartedError(f"the handler of {definition.kind!r} can't be used: {error}") from error
    return Call(bind, encode)


def _binder(
    inputs: list[inspect.Parameter], contexts: list[str], hints: dict[str, Any]
) -> Callable[[bytes, Context], tuple[tuple[Any, ...], dict[str, Any]]]:
    various = [p.name for p in inputs if p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]
    if various:
        raise TypeError(f"it takes any number of arguments ({various[0]}); name each")
    only_positional = [p.name for p in inputs if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    if only_positional and (len(inputs) > 1 or contexts):
        raise TypeError(f"the parameter {only_positional[0]} has no name for callers; remove the slash")
    if not inputs:
        return lambda _data, context: ((), dict.fromkeys(contexts, context))
    if len(inputs) == 1:
        return _single(inputs[0], contexts, decoder(hints[inputs[0].name]))
    required = frozenset(p.name for p in inputs if p.default is inspect.Parameter.empty)
    read_all = fields_decoder({p.name: hints[p.name] for p in inputs}, required)

    def bind_fields(data: bytes, context: Context) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {**read_all(data), **dict.fromkeys(contexts, context)}

    return bind_fields


def _single(
    parameter: inspect.Parameter, contexts: list[str], read: Decoder
) -> Callable[[bytes, Context], tuple[tuple[Any, ...], dict[str, Any]]]:
    has_default = parameter.default is not inspect.Parameter.empty
    name = parameter.name
    if not contexts and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:

        def bind(data: bytes, _context: Context) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return ((), {}) if has_default and not data else ((read(data),), {})

        return bind

    def bind_named(data: bytes, context: Context) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named: dict[str, Any] = dict.fromkeys(contexts, context)
        if data or not has_default:
            named[name] = read(data)
        return (), named

    return bind_named
