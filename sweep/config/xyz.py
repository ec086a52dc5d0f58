"""XYZ: Ato's indented text format, made exact.

A mapping is one ``key: value`` to a line, a sequence one ``0) value``; deeper parts are indented::

    lr: 0.1
    layers:
      0) 64
      1) 128
    model:
      backbone: resnet50

Whatever the plain form would read back as something else (text that looks like a number, keys with
a colon, line breaks …) is written as a JSON string, so that reading gives exactly what was written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from sweep.errors import ConfigError

__all__ = ["dumps", "loads"]

_WORDS: dict[str, object] = {
    "none": None,
    "true": True,
    "false": False,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "[empty sequence]": [],
    "[empty mapping]": {},
}
_INT = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?[0-9]+(?:\.[0-9]*(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)")
_KEY = re.compile(r"[^\W\d][\w./-]*")
_INDEX = re.compile(r"([0-9]+)\)(?: (.*))?")
_NAMED = re.compile(r'("(?:[^"\\]|\\.)*"|[^:"]+):(?: (.*))?')

Line = tuple[int, str, int]  # indent, text, line number


def dumps(data: Mapping[str, object]) -> str:
    """Return ``data`` (text keys; None, bool, numbers, text, lists and mappings) in XYZ.

    Example:
        >>> print(dumps({"lr": 0.1, "tags": ["a", "12"]}), end="")
        lr: 0.1
        tags:
          0) a
          1) "12"
    """
    return "".join(f"{line}\n" for line in _block(data, ""))


def _block(data: Any, indent: str) -> list[str]:
    mapping = isinstance(data, Mapping)
    lines: list[str] = []
    for key, value in data.items() if mapping else enumerate(data):
        head = indent + (_key(key) + ":" if mapping else f"{key})")
        if isinstance(value, Mapping | list | tuple) and value:
            lines += [head, *_block(value, indent + "  ")]
        else:
            lines.append(f"{head} {_scalar(value)}")
    return lines


def _key(key: Any) -> str:
    return key if _KEY.fullmatch(key) else json.dumps(key)


def _scalar(value: object) -> str:
    if isinstance(value, Mapping | list | tuple):
        return "[Empty Mapping]" if isinstance(value, Mapping) else "[Empty Sequence]"
    if not isinstance(value, str):
        return repr(value)
    exact = value == value.strip() and value.isprintable() and value[:1] not in ("", '"') and _value(value) is value
    return value if exact else json.dumps(value)


def _value(text: str) -> object:
    """Read a scalar; returns the very same object where it is plain text."""
    if text[:1] == '"':
        return json.loads(text)
    word = text.lower()
    if word in _WORDS:
        found = _WORDS[word]
        return type(found)(found) if isinstance(found, list | dict) else found
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def loads(text: str, where: str = "XYZ text") -> object:
    """Read XYZ text; the inverse of :func:`dumps`, and it reads files written by Ato.

    Raises:
        ConfigError: A malformed line; names ``where`` and the line.
    """
    lines: list[Line] = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip("\r")
        if line.strip():
            body = line.lstrip(" ")
            lines.append((len(line) - len(body), body, number))
    if not lines:
        return {}
    value, rest = _read_block(lines, 0, where)
    if rest < len(lines):
        raise ConfigError(f"{where}:{lines[rest][2]}: {lines[rest][1]!r} is indented less than the first line")
    return value


def _read_block(lines: list[Line], at: int, where: str) -> tuple[object, int]:
    indent = lines[at][0]
    sequence = _INDEX.fullmatch(lines[at][1]) is not None
    found: dict[Any, object] = {}
    while at < len(lines) and lines[at][0] == indent:
        key, text, number = _read_head(lines[at], sequence, where)
        if key in found:
            raise ConfigError(f"{where}:{number}: {key!r} stands here a second time")
        at += 1
        deeper = at < len(lines) and lines[at][0] > indent
        if deeper and text:
            raise ConfigError(f"{where}:{lines[at][2]}: {lines[at][1]!r} is indented under {key!r}, which has a value")
        if deeper:
            found[key], at = _read_block(lines, at, where)
        else:
            found[key] = _read_scalar(text, where, number)
    if at < len(lines) and lines[at][0] > indent:
        raise ConfigError(f"{where}:{lines[at][2]}: unexpected indentation of {lines[at][1]!r}")
    if sequence and sorted(found) != list(range(len(found))):
        raise ConfigError(f"{where}:{lines[at - 1][2]}: the items of a sequence are numbered 0) 1) 2) …")
    return ([found[index] for index in range(len(found))] if sequence else found), at


def _read_head(line: Line, sequence: bool, where: str) -> tuple[object, str, int]:
    _, body, number = line
    match = (_INDEX if sequence else _NAMED).fullmatch(body)
    if match is None:
        expected = "an item, 'number) value'" if sequence else "'key: value'"
        raise ConfigError(f"{where}:{number}: expected {expected}, found {body!r}")
    head, text = match.group(1), (match.group(2) or "").strip()
    if sequence:
        return int(head), text, number
    return _read_scalar(head, where, number) if head[0] == '"' else head.strip(), text, number


def _read_scalar(text: str, where: str, number: int) -> object:
    try:
        return _value(text)
    except ValueError as error:
        raise ConfigError(f"{where}:{number}: {text!r} is no value: {error}") from error
