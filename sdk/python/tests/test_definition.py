"""How handlers are declared and called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from robeing import App, BadValueError, Context, NotStartedError
from robeing._worker.definition import Definition, definition_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Size(BaseModel):
    """A model."""

    width: int


def definition(function: object) -> Definition:
    """Returns the definition of a handler."""
    found = definition_of(function)  # type: ignore[arg-type]
    assert found is not None
    return found


def bound(function: object, data: bytes) -> object:
    """Returns what a handler returns for an input."""
    handler = definition(function)
    arguments, named = handler.call.bind(data, Context("id", 1, handler.kind))
    return handler.function(*arguments, **named)


def test_several_parameters_are_the_fields_of_an_object() -> None:
    app = App()

    @app.task("scale")
    def scale(path: str, context: Context, size: Size, factor: float = 2.0) -> object:
        return [path, size.width, factor, context.attempt]

    assert bound(scale, b'{"path":"a","size":{"width":3}}') == ["a", 3, 2.0, 1]
    assert bound(scale, b'{"path":"a","size":{"width":3},"factor":1}') == ["a", 3, 1.0, 1]
    for data, problem in [
        (b'{"path":"a"}', "lacks the field 'size'"),
        (b'{"path":"a","size":{"width":"x"}}', "valid integer"),
        (b'{"path":"a","size":{"width":3},"context":1}', "has the field 'context'"),
        (b"[]", "must be an object"),
    ]:
        with pytest.raises(BadValueError, match=problem):
            bound(scale, data)


def test_parameters_may_be_missing_or_have_defaults() -> None:
    app = App()

    @app.task("none")
    def none() -> int:
        return 1

    @app.task("default")
    def default(number: int = 5) -> int:
        return number

    @app.task("named")
    def named(context: Context, *, number: int = 5) -> int:
        return number + context.attempt

    @app.task("untyped")
    def untyped(value):  # type: ignore[no-untyped-def]
        return value

    assert bound(none, b"whatever") == 1
    assert bound(default, b"") == 5
    assert bound(default, b"6") == 6
    assert bound(named, b"") == 6
    assert bound(named, b"1") == 2
    assert bound(untyped, b'{"a":[]}') == {"a": []}


def test_what_can_not_be_called_is_refused_before_anything_runs() -> None:
    app = App()

    @app.task("any")
    def any_number(*xs: int) -> None: ...

    @app.task("positional")
    def positional(a: int, b: int, /) -> None: ...

    @app.task("unknown")
    def unknown(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    @app.task("local", run_in="process")
    def local() -> None: ...

    for function, problem in [
        (any_number, "any number of arguments"),
        (positional, "remove the slash"),
        (unknown, "'Missing' is not defined"),
        (local, "at the top level of a module"),
    ]:
        with pytest.raises(NotStartedError, match=problem):
            definition(function).check()


def test_declarations_out_of_bounds_are_refused() -> None:
    app = App()
    app.task("a")(lambda: None)
    declarations: list[tuple[Callable[[], object], str]] = [
        (lambda: app.task("a")(lambda: None), "have a handler already"),
        (lambda: app.task("b", slots=0)(lambda: None), "at least one slot"),
        (lambda: app.task("")(lambda: None), "1 to 253 bytes"),
        (lambda: app.task("ä" * 127)(lambda: None), "1 to 253 bytes"),
    ]
    for declare, problem in declarations:
        with pytest.raises(ValueError, match=problem):
            declare()

    async def coroutine() -> None: ...

    with pytest.raises(TypeError, match="runs in the event loop"):
        app.task("c", run_in="process")(coroutine)
    with pytest.raises(TypeError, match="write `async def`"):
        app.task("c", run_in="loop")(lambda: None)
    assert app.kinds == ["a"]
