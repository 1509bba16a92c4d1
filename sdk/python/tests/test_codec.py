"""How inputs and outputs are written, by the annotations of handlers."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import BaseModel, Field

from robeing import BadValueError, Text
from robeing._codec import decode_output, decoder, encode_input, encoder, from_json, to_json


class Color(enum.Enum):
    """An enumeration."""

    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: float = 0.0
    tags: list[str] = field(default_factory=list)


@dataclass
class Tree:
    """A dataclass that contains itself."""

    name: str
    children: list[Tree] = field(default_factory=list)


class Options(TypedDict, total=False):
    """An object."""

    depth: int


class Job(BaseModel):
    """A model."""

    name: str
    size: int = Field(gt=0)


@pytest.mark.parametrize(
    ("annotation", "data", "value"),
    [
        (int, b"7", 7),
        (float, b"7", 7.0),
        (bool, b"true", True),
        (str, b'"a"', "a"),
        (type(None), b"", None),
        (Any, b"[1]", [1]),
        (Any, b"", None),
        (bytes, b"\xff", b"\xff"),
        (Text, b"plain", "plain"),
        (list[int], b"[1,2]", [1, 2]),
        (list, b"[1,null]", [1, None]),
        (Sequence[str], b'["a"]', ["a"]),
        (tuple[int, ...], b"[1,2]", (1, 2)),
        (tuple[int, str], b'[1,"a"]', (1, "a")),
        (set[int], b"[1,1]", {1}),
        (dict[str, int], b'{"a":1}', {"a": 1}),
        (Mapping[str, list[int]], b'{"a":[1]}', {"a": [1]}),
        (int | None, b"null", None),
        (list[int] | None, b"[1]", [1]),
        (Literal["a", 1], b"1", 1),
        (Color, b'"red"', Color.RED),
        (Point, b'{"x":1}', Point(1)),
        (list[Point], b'[{"x":1,"y":2,"tags":["a"]}]', [Point(1, 2.0, ["a"])]),
        (Tree, b'{"name":"a","children":[{"name":"b"}]}', Tree("a", [Tree("b")])),
        (Options, b'{"depth":1}', {"depth": 1}),
        (Job, b'{"name":"a","size":1}', Job(name="a", size=1)),
        (list[Job], b'[{"name":"a","size":1}]', [Job(name="a", size=1)]),
        (Annotated[int, Field(gt=0)], b"3", 3),
    ],
)
def test_a_value_is_read_as_the_declared_type(annotation: Any, data: bytes, value: object) -> None:
    read = decoder(annotation)(data)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("annotation", "data", "problem"),
    [
        (int, b"true", "it must be an integer, but is a boolean"),
        (int, b"1.0", "it must be an integer, but is a number"),
        (int, b"", "it must be an integer, but is null"),
        (list[int], b"7", "it must be an array, but is an integer"),
        (list[list[int]], b'[[1],[2,"3"]]', "[1][1] must be an integer, but is a string"),
        (dict[str, int], b'{"a":{}}', "a must be an integer, but is an object"),
        (tuple[int, str], b"[1]", "it must be an array of 2, but is an array"),
        (int | None, b'"a"', "it must be an integer or null, but is a string"),
        (list[int] | None, b'["a"]', "[0] must be an integer, but is a string"),
        (Literal["a", "b"], b'"c"', "it must be 'a' or 'b', but is 'c'"),
        (Color, b'"green"', "it must be 'red' or 'blue', but is 'green'"),
        (Point, b"{}", "it lacks the field 'x'"),
        (Point, b'{"x":1,"z":2}', "it has the field 'z', which is none of x, y, tags"),
        (list[Point], b'[{"x":1},{"x":"a"}]', "[1].x must be an integer, but is a string"),
        (Tree, b'{"name":"a","children":[{"name":1}]}', "children[0].name must be a string, but is an integer"),
        (Job, b'{"name":"a","size":0}', "greater than 0"),
        (Text, b"\xff", "it is not UTF-8"),
        (str, b"plain", "it is not JSON"),
        (str, b"\xff", "it is not UTF-8"),
        (float, b"NaN", "NaN"),
        (Any, b"[" * 100_000, "nested too deeply"),
        (int, b"9" * 10_000, "it is not JSON"),
    ],
)
def test_another_value_is_refused_with_what_is_wrong_and_where(annotation: Any, data: bytes, problem: str) -> None:
    with pytest.raises(BadValueError) as error:
        decoder(annotation)(data)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("annotation", "value", "data"),
    [
        (int, 7, b"7"),
        (Any, None, b"null"),
        (str, "ä", '"ä"'.encode()),
        (Text, "ä", "ä".encode()),
        (bytes, bytearray(b"a"), b"a"),
        (Point, Point(1), b'{"x":1,"y":0.0,"tags":[]}'),
        (list[Color], [Color.BLUE], b'["blue"]'),
        (set[int], {1}, b"[1]"),
        (Job, Job(name="a", size=1), b'{"name":"a","size":1}'),
        (Any, {"job": Job(name="a", size=1)}, b'{"job":{"name":"a","size":1}}'),
    ],
)
def test_a_value_is_written_as_the_declared_type(annotation: Any, value: object, data: bytes) -> None:
    assert encoder(annotation)(value) == data


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (bytes, "a", "it must be bytes, but is a string"),
        (Text, b"a", "it must be a string, but is of the type bytes"),
        (Any, object(), "JSON has nothing for the type object"),
        (float, float("nan"), "not JSON compliant"),
        (Job, 7, "Expected `Job`"),
    ],
)
def test_what_can_not_be_written_is_refused(annotation: Any, value: object, problem: str) -> None:
    with pytest.raises(BadValueError, match=problem):
        encoder(annotation)(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(BadValueError):
        to_json(itself)


def test_a_type_that_nothing_knows_is_refused_at_once() -> None:
    class Strange:
        pass

    with pytest.raises(TypeError, match="Strange"):
        decoder(Strange)


def test_without_pydantic_its_types_are_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydantic", None)
    with pytest.raises(TypeError, match=r"pip install 'robeing\[pydantic\]'"):
        decoder(Job)
    assert decoder(list[Point])(b'[{"x":1}]') == [Point(1)]


def test_inputs_and_outputs_of_a_kind_are_bytes_or_json() -> None:
    assert encode_input(None) == b""
    assert encode_input(b"raw") == b"raw"
    assert encode_input("text") == b'"text"'
    assert encode_input(Point(1)) == b'{"x":1,"y":0.0,"tags":[]}'
    assert decode_output(b'{"a":1}') == {"a": 1}
    assert decode_output(b"1 5 25\n") == b"1 5 25\n"
    assert decode_output(b"") is None
    assert from_json(b"") is None


@pytest.mark.parametrize(
    "text", ["1", " 1", "1 ", "\t\r\n[1, 2]\n", "1 2", "[1] x", " x", "", " ", "x", "[", "\ufeff1", "1\xa0"]
)
def test_json_is_read_as_the_standard_library_does(text: str) -> None:
    try:
        value = json.JSONDecoder().decode(text) if text else None
    except ValueError as error:
        with pytest.raises(BadValueError, match=re.escape(f"it is not JSON: {error};")):
            from_json(text.encode())
    else:
        assert from_json(text.encode()) == value
