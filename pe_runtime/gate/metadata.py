"""The JSON object that exported metrics and profiles carry, under one rule with the C library.

The rule leaves nothing that two readers could read in two ways: see "Metadata" in docs/gate.md.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any

METADATA_KEY = "pe_runtime"
MAX_METADATA_BYTES = 1 << 20
#: Objects and lists inside each other; exported files have four levels.
MAX_DEPTH = 32

# Outside of texts, brackets are structure. A text that does not end is left to the parser.
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def parse_metadata(text: bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object that is written in `text`.

    Args:
        text: UTF-8, at most 1 MiB.
        path: the file that it is from, for errors.

    Raises:
        ValueError: not a JSON object of at most 32 levels; a byte order mark, a NUL (as an escape, too), half
            a surrogate pair, a key that is there twice in its object, a number that no float64 holds.
    """
    try:
        metadata = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: metadata {METADATA_KEY!r}: expected valid metadata: {error}") from None
    if not isinstance(metadata, dict):
        raise ValueError(
            f"{path}: metadata {METADATA_KEY!r}: expected valid metadata: expected a JSON object, "
            f"got {type(metadata).__name__}"
        )
    return metadata


def parse_json(data: bytes) -> Any:
    """A JSON value under the same rule.

    Raises:
        ValueError: what is wrong with it, without where it is from.
    """
    if len(data) > MAX_METADATA_BYTES:
        raise ValueError(f"expected at most {MAX_METADATA_BYTES} bytes, got {len(data)}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("expected UTF-8") from None
    if text.startswith("\ufeff"):
        raise ValueError("expected no byte order mark")
    if "\0" in text:
        raise ValueError("expected no NUL")
    if _depth(text) > MAX_DEPTH:
        raise ValueError(f"expected JSON of at most {MAX_DEPTH} levels")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON: {error}") from None
    _check_texts(value)
    return value


def _depth(text: str) -> int:
    """Levels of brackets, counted before the parser recurses into them."""
    depth = deepest = 0
    for bracket in re.findall(r"[][{}]", _TEXT.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("expected each key of an object once")
    return found


def _integer(text: str) -> int:
    _number(text)  # one of thousands of digits would be refused by int() in words of its own
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("expected JSON: a number that no float64 holds")
    return number


def _refuse_constant(text: str) -> None:
    raise ValueError(f"expected JSON: {text} is none")


def _check_texts(value: Any) -> None:
    """Refuse what escapes can write though it is no text: NUL and half a surrogate pair."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("expected no NUL")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("expected whole surrogate pairs")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_texts(key)
            _check_texts(item)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)
