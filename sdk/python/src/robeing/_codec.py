"""How inputs and outputs become bytes: JSON, text or bytes as they are, by the annotations of handlers.

Types of the standard library are checked by `_types`, so that a handler behaves the same whether pydantic is installed
or not. pydantic reads and writes only what is its own: models, `Annotated` types with constraints, and types that are
not known there.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin

from robeing._types import Check, Fields, Mismatch, UnknownTypeError, compile_type, kind_of
from robeing.errors import BadValueError

Decoder = Callable[[bytes], Any]
Encoder = Callable[[Any], bytes]


class _TextMark:
    """Marks a string that is passed as UTF-8 rather than as JSON."""

    def __repr__(self) -> str:
        return "robeing.Text"


Text = Annotated[str, _TextMark()]
"""A string that is passed as it is, in UTF-8: `robeing submit --input file` passes such. `str` is passed as JSON."""


def decoder(annotation: Any) -> Decoder:
    """Returns what reads a value of this type.

    Raises:
        TypeError: the type can't be read.
    """
    if annotation is bytes:
        return bytes
    if _is_text(annotation):
        return _from_utf8
    try:
        return _checked(compile_type(annotation))
    except UnknownTypeError:
        return _pydantic_decoder(annotation)


def encoder(annotation: Any) -> Encoder:
    """Returns what writes a value of this type.

    Raises:
        TypeError: the type can't be written.
    """
    if annotation is bytes:
        return _to_bytes
    if _is_text(annotation):
        return _to_utf8
    try:
        compile_type(annotation)
    except UnknownTypeError:
        return _pydantic_encoder(annotation)
    return to_json


def fields_decoder(annotations: Mapping[str, Any], required: frozenset[str]) -> Decoder:
    """Returns what reads an object with these fields.

    Raises:
        TypeError: the type of a field can't be read.
    """
    checks: dict[str, Check] = {}
    for name, annotation in annotations.items():
        try:
            checks[name] = compile_type(annotation)
        except UnknownTypeError:
            checks[name] = _pydantic_check(annotation)
    return _checked(Fields(checks, required))


def encode_input(value: object) -> bytes:
    """Writes an input as a submitter gives it: bytes as they are, nothing for `None`, anything else as JSON."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return b"" if value is None else to_json(value)


def decode_output(data: bytes) -> Any:
    """Reads an output whose type is not known: JSON, or else the bytes."""
    try:
        return from_json(data)
    except BadValueError:
        return data


def from_json(data: bytes) -> Any:
    """Reads JSON. Nothing is `None`, as a submission without an input is."""
    if not data:
        return None
    try:
        text = data.decode()
        if text[0] not in _BLANKS:
            value, end = _DECODER.raw_decode(text)
            if end == len(text) or not text[end:].strip(_BLANKS):
                return value
        # This looks for blanks first, which takes longer than to read a short value.
        return _DECODER.decode(text)
    except UnicodeDecodeError:
        raise BadValueError("it is not UTF-8; declare the type bytes to get it as it is") from None
    except RecursionError:
        raise BadValueError("it is nested too deeply") from None
    except ValueError as error:
        raise BadValueError(f"it is not JSON: {error}; declare bytes or robeing.Text to get it as it is") from None


def to_json(value: object) -> bytes:
    """Writes JSON."""
    if value is None:
        return b"null"
    try:
        return _ENCODER.encode(value).encode()
    except RecursionError:
        raise BadValueError("it is nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise BadValueError(f"it can't be written as JSON: {error}") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"it contains {name}, which JSON does not have")


def _to_plain(value: object) -> object:
    """Returns what JSON has for a value that it does not have itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"JSON has nothing for the type {type(value).__qualname__}")


# The blanks of JSON.
_BLANKS = " \t\n\r"
# Made once: json.dumps and json.loads with options make new ones each time.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_to_plain)


def _checked(check: Check) -> Decoder:
    def decode(data: bytes) -> Any:
        try:
            return check(from_json(data))
        except Mismatch as mismatch:
            raise BadValueError(str(mismatch)) from None

    return decode


def _is_text(annotation: object) -> bool:
    return get_origin(annotation) is Annotated and any(isinstance(mark, _TextMark) for mark in get_args(annotation)[1:])


def _from_utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadValueError(f"it is not UTF-8: {error.reason} at byte {error.start}") from None


def _to_utf8(value: object) -> bytes:
    if not isinstance(value, str):
        raise BadValueError(f"it must be a string, but is {kind_of(value)}")
    return value.encode()


def _to_bytes(value: object) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise BadValueError(f"it must be bytes, but is {kind_of(value)}")
    return bytes(value)


def _adapter(annotation: Any) -> Any:
    try:
        from pydantic import TypeAdapter  # noqa: PLC0415
        from pydantic.errors import PydanticUserError  # noqa: PLC0415
    except ImportError:
        raise TypeError(f"values of the type {annotation!r} need pydantic: pip install 'robeing[pydantic]'") from None
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:
        raise TypeError(f"values of the type {annotation!r} can't be read or written: {error}") from None


def _pydantic_decoder(annotation: Any) -> Decoder:
    adapter = _adapter(annotation)

    def decode(data: bytes) -> Any:
        try:
            return adapter.validate_json(data or b"null")
        except ValueError as error:
            raise BadValueError(str(error)) from None

    return decode


def _pydantic_check(annotation: Any) -> Check:
    adapter = _adapter(annotation)

    def check(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValueError as error:
            raise Mismatch(f"is wrong: {error}") from None

    return check


def _pydantic_encoder(annotation: Any) -> Encoder:
    adapter = _adapter(annotation)

    def encode(value: Any) -> bytes:
        try:
            data: bytes = adapter.dump_json(value, warnings="error")
        except ValueError as error:
            raise BadValueError(str(error)) from None
        return data

    return encode
