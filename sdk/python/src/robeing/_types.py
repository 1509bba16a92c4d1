"""Checks that values of JSON are of the types that handlers declare, and makes them values of those types."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

# Takes a value of JSON and returns it as the declared type. Raises `Mismatch`.
Check = Callable[[Any], Any]


class UnknownTypeError(Exception):
    """The type is not one of those that are checked here."""


class Mismatch(Exception):  # noqa: N818
    """A value is not of the declared type."""

    def __init__(self, problem: str, *, expected: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        # What was expected instead of the value, if another alternative of a union may be meant.
        self.expected = expected
        # Where the value is, from the inside outwards.
        self.path: list[str] = []

    def within(self, step: str) -> Mismatch:
        """Adds where the value is, as seen from the value around it."""
        self.path.append(step)
        return self

    def __str__(self) -> str:
        return f"{''.join(reversed(self.path)).lstrip('.') or 'it'} {self.problem}"


def other_than(expected: str, value: object) -> Mismatch:
    """Returns the mismatch of a value that should be something else."""
    return Mismatch(f"must be {expected}, but is {kind_of(value)}", expected=expected)


def kind_of(value: object) -> str:
    """Returns what a value is, in the words of JSON."""
    names: dict[type, str] = {
        type(None): "null",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), f"of the type {type(value).__qualname__}")


def same(value: Any) -> Any:
    """Takes everything."""
    return value


def compile_type(annotation: Any) -> Check:
    """Compiles a type.

    Raises:
        UnknownTypeError: it is not one of those that are checked here.
    """
    if annotation is Any or annotation is object:
        return same
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        raise UnknownTypeError
    scalar = _SCALARS.get(annotation)
    if scalar is not None:
        return scalar
    container = _CONTAINERS.get(origin or annotation)
    if container is not None:
        return container(arguments)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is Literal:
        return _literal(arguments)
    if isinstance(annotation, type):
        return _class(annotation)
    raise UnknownTypeError


def _class(kind: type) -> Check:
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    if dataclasses.is_dataclass(kind) and not hasattr(kind, "__pydantic_validator__"):
        return _dataclass(kind)
    if typing.is_typeddict(kind):
        return _typed_dict(kind)
    raise UnknownTypeError


class _Scalar:
    """Takes values of one type. Arrays of them are checked at once, since there are many."""

    def __init__(self, kind: type, expected: str) -> None:
        self._kinds = {kind}
        self._expected = expected

    def __call__(self, value: Any) -> Any:
        # Not isinstance: a boolean is an instance of int.
        if type(value) in self._kinds:
            return value
        raise other_than(self._expected, value)

    def takes_all(self, values: list[Any]) -> bool:
        """Returns whether all values are of the type."""
        return self._kinds.issuperset(map(type, values))


def _float(value: Any) -> float:
    if type(value) in (float, int):
        return float(value)
    raise other_than("a number", value)


_SCALARS: dict[object, Check] = {
    None: _Scalar(type(None), "null"),
    type(None): _Scalar(type(None), "null"),
    bool: _Scalar(bool, "a boolean"),
    int: _Scalar(int, "an integer"),
    float: _float,
    str: _Scalar(str, "a string"),
}


def _array(make: Callable[[list[Any]], Any]) -> Callable[[tuple[Any, ...]], Check]:
    def compile_array(arguments: tuple[Any, ...]) -> Check:
        item = compile_type(arguments[0]) if arguments else same

        def check(value: Any) -> Any:
            if type(value) is not list:
                raise other_than("an array", value)
            if item is same or (isinstance(item, _Scalar) and item.takes_all(value)):
                return make(value)
            return make(_items(value, [item] * len(value)))

        return check

    return compile_array


def _items(values: list[Any], checks: Sequence[Check]) -> list[Any]:
    checked = []
    for index, (check, value) in enumerate(zip(checks, values, strict=True)):
        try:
            checked.append(check(value))
        except Mismatch as mismatch:
            raise mismatch.within(f"[{index}]") from None
    return checked


def _tuple(arguments: tuple[Any, ...]) -> Check:
    if not arguments or arguments[-1] is Ellipsis:
        return _array(tuple)(arguments[:1])
    checks = [compile_type(argument) for argument in arguments if argument != ()]

    def check(value: Any) -> Any:
        if type(value) is not list or len(value) != len(checks):
            raise other_than(f"an array of {len(checks)}", value)
        return tuple(_items(value, checks))

    return check


def _object(arguments: tuple[Any, ...]) -> Check:
    if arguments and arguments[0] is not str:
        raise UnknownTypeError
    item = compile_type(arguments[1]) if arguments else same

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise other_than("an object", value)
        if item is same:
            return value
        return {name: _field(name, item, one) for name, one in value.items()}

    return check


def _field(name: str, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except Mismatch as mismatch:
        raise mismatch.within(f".{name}") from None


_CONTAINERS: dict[object, Callable[[tuple[Any, ...]], Check]] = {
    list: _array(same),
    Sequence: _array(same),
    set: _array(set),
    frozenset: _array(frozenset),
    tuple: _tuple,
    dict: _object,
    Mapping: _object,
}


def _union(arguments: tuple[Any, ...]) -> Check:
    alternatives = [compile_type(argument) for argument in arguments]

    def check(value: Any) -> Any:
        expected = []
        closest = None
        for alternative in alternatives:
            try:
                return alternative(value)
            except Mismatch as mismatch:
                if mismatch.path or mismatch.expected is None:
                    # The value is of this alternative, but for something inside.
                    closest = mismatch
                else:
                    expected.append(mismatch.expected)
        raise closest or other_than(" or ".join(dict.fromkeys(expected)), value)

    return check


def _literal(arguments: tuple[Any, ...]) -> Check:
    def check(value: Any) -> Any:
        for argument in arguments:
            if type(argument) is type(value) and argument == value:
                return value
        raise _none_of(arguments, value)

    return check


def _enum(kind: type[enum.Enum]) -> Check:
    def check(value: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise _none_of([one.value for one in kind], value) from None

    return check


def _none_of(values: Sequence[Any], value: object) -> Mismatch:
    expected = " or ".join(repr(one) for one in values)
    shown = repr(value) if type(value) in (str, int) and len(repr(value)) <= 64 else kind_of(value)
    return Mismatch(f"must be {expected}, but is {shown}", expected=expected)


@dataclasses.dataclass
class Fields:
    """The fields of an object, and which of them it must have."""

    checks: dict[str, Check]
    required: frozenset[str]

    def __call__(self, value: Any) -> dict[str, Any]:
        """Checks an object.

        Raises:
            Mismatch: a field is missing, is wrong, or is none of these.
        """
        if type(value) is not dict:
            raise other_than("an object", value)
        checked = {}
        for name, one in value.items():
            check = self.checks.get(name)
            if check is None:
                raise Mismatch(
                    f"has the field {name[:64]!r}, which is none of {', '.join(self.checks) or 'its fields'}"
                )
            checked[name] = _field(name, check, one)
        for name in self.checks:
            if name in self.required and name not in checked:
                raise Mismatch(f"lacks the field {name!r}")
        return checked


class _Lazy:
    """Fields that are compiled once, also those of a type that contains itself."""

    _compiling: ClassVar[set[type]] = set()

    def __init__(self, kind: type, compiler: Callable[[], Fields]) -> None:
        self._compiler = compiler
        self._fields: Fields | None = None
        if kind in self._compiling:
            return
        self._compiling.add(kind)
        try:
            self._fields = compiler()
        finally:
            self._compiling.discard(kind)

    def __call__(self, value: Any) -> dict[str, Any]:
        if self._fields is None:
            self._fields = self._compiler()
        return self._fields(value)


def _dataclass(kind: type) -> Check:
    missing = dataclasses.MISSING
    own = [field for field in dataclasses.fields(kind) if field.init]
    required = frozenset(f.name for f in own if f.default is missing and f.default_factory is missing)

    def compile_fields() -> Fields:
        hints = get_type_hints(kind, include_extras=True)
        return Fields({field.name: compile_type(hints[field.name]) for field in own}, required)

    read = _Lazy(kind, compile_fields)

    def check(value: Any) -> Any:
        return kind(**read(value))

    return check


def _typed_dict(kind: Any) -> Check:
    def compile_fields() -> Fields:
        hints = get_type_hints(kind)
        return Fields({name: compile_type(hint) for name, hint in hints.items()}, kind.__required_keys__)

    return _Lazy(kind, compile_fields)
