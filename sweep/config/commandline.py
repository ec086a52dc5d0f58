"""Explicit values: what the words of a command line mean, files, the environment. Nothing is ever evaluated.

========================  ====================================================
``lr=0.01 model.depth=50``  a value for a (dotted) key
``high_lr``                 the name of a view
``--config FILE``           a file of values
``manual``, ``--help``      print the manual
``--flag``                  only where an ``argparse`` parser knows it
========================  ====================================================

A value is a JSON-like literal: a number, ``true false null`` (or Python's spelling), a list
``[64, 128]``, a tuple ``(0.9, 0.99)``, a mapping ``{a: 1}``, text in quotes or between ``%``;
anything else is text. In a sweep, ``lr=log(1e-5,1e-1)`` and ``depth=50,101`` are search ranges.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, final

from sweep.config import files
from sweep.config.adict import leaves
from sweep.errors import ConfigError, SpaceError, UnknownName, near_miss

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from sweep.space import Distribution

__all__ = [
    "RANGES",
    "Arguments",
    "Assignment",
    "Explicit",
    "environment_of",
    "from_environment",
    "from_file",
    "joined",
    "parse_arguments",
    "parse_text",
    "parse_value",
    "range_hint",
    "search_range",
    "sources",
    "split_search",
]

_WORDS: dict[str, object] = {
    **{word: True for word in ("true", "True")},
    **{word: False for word in ("false", "False")},
    **{word: None for word in ("null", "None")},
    **{word: math.inf for word in ("inf", "+inf", "Infinity")},
    **{word: -math.inf for word in ("-inf", "-Infinity")},
    **{word: math.nan for word in ("nan", "NaN")},
}
_INT = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,4000})")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)")
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_DEEPEST = 64
_KEY = re.compile(r"[^\s.=\[\]-][^\s.=\[\]]*(?:\.[^\s.=\[\]]+)*")
RANGES = {
    "uniform": "Uniform",
    "log": "LogUniform",
    "loguniform": "LogUniform",
    "logit": "LogitUniform",
    "int": "Integer",
    "integer": "Integer",
    "logint": "LogInteger",
    "normal": "Normal",
    "lognormal": "LogNormal",
    "choice": "Choice",
    "ordinal": "Ordinal",
}
_RANGE = re.compile(r"(\w+)\((.*)\)", re.DOTALL)


@final
@dataclass(frozen=True, slots=True)
class Assignment:
    """One ``key=value`` of a command line, a file or the environment.

    Attributes:
        path: The key's parts.
        value: What the text reads as.
        text: The text as written, or None where the value did not come from text.
        source: Where it stands, for messages: the word, the file, the variable.
        problem: Why the text is no literal, if it begins like one and is none; then it can only be text.
        typed: Whether someone else (argparse) has already given the value its type.
    """

    path: tuple[Any, ...]
    value: Any
    text: str | None
    source: str
    problem: str = ""
    typed: bool = False


@final
@dataclass(slots=True)
class Arguments:
    """The words of a command line by what they are."""

    assignments: list[Assignment] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    manual: bool = False
    flags: list[Assignment] = field(default_factory=list)
    flag_defaults: dict[str, object] = field(default_factory=dict)


class _Unset(list[object]):
    """Stands for "this flag was not given" while argparse runs; a list, so that ``append`` and ``count`` work on it."""

    def __add__(self, other: Any) -> Any:
        return other if isinstance(other, int) else [*self, *other]


def parse_arguments(argv: Sequence[str], parser: ArgumentParser | None = None) -> Arguments:
    """Sort the words of a command line.

    Args:
        argv: The words, without the program's name.
        parser: Takes the flags (and nothing else); unknown flags stay errors.

    Raises:
        UnknownName: A flag that nobody knows.
        ConfigError: A malformed ``key=value``.
    """
    found = Arguments()
    words, flags = _own_flags(list(argv), found), ["--config", "--help"]
    if parser is not None and not found.manual:
        words = _argparse(words, parser, found)
        flags += re.findall(r"--[\w-]+", parser.format_help())
    words = joined(words)
    for word in words:
        if word.startswith("-"):
            raise UnknownName("flag", word.split("=")[0], flags, "values are given as key=value")
        key, sign, text = word.partition("=")
        if not sign:
            found.views.append(word)
        else:
            found.assignments.append(_assignment(key, text, word))
    return found


def _own_flags(words: list[str], found: Arguments) -> list[str]:
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word == "manual" or word in ("-h", "--help"):
            found.manual = True
        elif word == "--config":
            if not words:
                raise ConfigError("--config needs a file: --config FILE")
            found.files.append(words.pop(0))
        elif word.startswith("--config="):
            found.files.append(word.removeprefix("--config="))
        else:
            rest.append(word)
    return rest


def _argparse(words: list[str], parser: ArgumentParser, found: Arguments) -> list[str]:
    from argparse import Namespace

    values, rest = parser.parse_known_args(words)
    marks = {name: _Unset() for name in vars(values)}
    probe, _ = parser.parse_known_args(words, Namespace(**marks))
    for name, value in vars(values).items():
        given = getattr(probe, name) is not marks.get(name)
        found.flag_defaults[name] = parser.get_default(name) if given else value
        if given:
            found.flags.append(Assignment((name,), value, None, f"--{name}", typed=True))
    return rest


@final
@dataclass(frozen=True, slots=True)
class Explicit:
    """Explicit values of one source.

    Attributes:
        kind: ``"file"``, ``"environment"`` or ``"command line"``.
        name: Name of the source.
        items: The values.
    """

    kind: str
    name: str
    items: Sequence[Assignment]


def sources(words: Arguments, prefix: str | None = None, below: Sequence[Explicit] = ()) -> list[Explicit]:
    """Return all explicit sources of a command line, the lowest first; empty ones are left out.

    Args:
        words: The command line, and the files it names.
        prefix: Of the environment variables that are values, too.
        below: Sources to stand below these.

    Raises:
        ConfigError: A file is missing or malformed.
    """
    said = Explicit("command line", "", [*words.assignments, *words.flags])
    found = [*below, *map(from_file, words.files), from_environment(prefix), said]
    return [source for source in found if source.items]


def from_file(path: str) -> Explicit:
    """Read a config file.

    Raises:
        ConfigError: It is missing or malformed.
    """
    return Explicit("file", path, [Assignment(key, value, None, path) for key, value in leaves(files.read(path))])


def environment_of(prefix: str | None) -> list[tuple[str, str]]:
    """Return the variables that begin with ``prefix``, by name; none where there is no prefix."""
    if prefix is None:
        return []
    return sorted((name, text) for name, text in os.environ.items() if name.startswith(prefix) and name != prefix)


def from_environment(prefix: str | None) -> Explicit:
    """Read the environment: ``TRAIN_MODEL__LR`` with the prefix ``TRAIN_`` is ``model.lr``."""
    start = len(prefix or "")
    items = [
        parse_text(tuple(name[start:].lower().split("__")), text, f"{name}={text}") for name, text in environment_of(prefix)
    ]
    return Explicit("environment", f"{prefix}*", items)


def joined(words: Sequence[str]) -> list[str]:
    """Put together what the shell split inside brackets: ``layers=[64, 128]``.

    Example:
        >>> joined(["layers=[64,", "128]", "lr=1"])
        ['layers=[64, 128]', 'lr=1']
    """
    found: list[str] = []
    open_word = ""
    for word in words:
        open_word = f"{open_word} {word}" if open_word else word
        if not _is_open(open_word):
            found.append(open_word)
            open_word = ""
    if open_word:
        found.append(open_word)
    return found


def _is_open(word: str) -> bool:
    text = word.partition("=")[2]
    if text[:1] not in _CLOSING or not text:
        return False
    depth, quote = 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'%":
            quote = letter
        else:
            depth += (letter in "[({") - (letter in "])}")
    return depth > 0


def _assignment(key: str, text: str, word: str) -> Assignment:
    if not _KEY.fullmatch(key):
        how = "without spaces round the =" if key.strip() != key or not key else "a list is set as a whole"
        raise ConfigError(f"{word!r}: {key!r} is no key; write key=value or group.key=value ({how})")
    return parse_text(tuple(key.split(".")), text, word)


def parse_text(path: tuple[object, ...], text: str, source: str) -> Assignment:
    """Return the assignment of a text; one that begins like a literal and is none keeps its problem."""
    try:
        return Assignment(path, parse_value(text), text, source)
    except ConfigError as error:
        return Assignment(path, text, text, source, str(error))


def parse_value(text: str) -> Any:
    """Read a value from text by its form; never evaluates anything.

    Raises:
        ConfigError: A list, mapping or quoted text that is malformed.

    Example:
        >>> parse_value("0.01"), parse_value("[64, 128]"), parse_value("%12%"), parse_value("resnet101")
        (0.01, [64, 128], '12', 'resnet101')
        >>> parse_value("__import__('os').system('true')")
        "__import__('os').system('true')"
    """
    stripped = text.strip()
    if len(stripped) > 1 and stripped[0] == "%" == stripped[-1]:
        return stripped[1:-1]
    if stripped[:1] not in ("[", "(", "{", '"', "'") or not stripped:
        return _word(text)
    reader = _Reader(stripped)
    value = reader.value("")
    if reader.at < len(stripped):
        reader.fail(f"{stripped[reader.at :]!r} follows its end")
    return value


def _word(text: str) -> object:
    word = text.strip()
    if word in _WORDS:
        return _WORDS[word]
    if _INT.fullmatch(word):
        return int(word)
    number = float(word) if _FLOAT.fullmatch(word) else math.inf
    return text if math.isinf(number) else number


class _Reader:
    """Reads one literal from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def fail(self, why: str) -> NoReturn:
        raise ConfigError(f"{self.text!r} is no value: {why}; write text between % signs: %{self.text}%")

    def peek(self) -> str:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def value(self, end: str) -> object:
        first = self.peek()
        if first in _CLOSING and first:
            self.depth += 1
            if self.depth > _DEEPEST:
                self.fail(f"it is nested more than {_DEEPEST} deep")
            found: Any = self.mapping() if first == "{" else self.sequence(_CLOSING[first])
            self.depth -= 1
            return tuple(found) if first == "(" else found
        if first and first in "\"'%":
            return self.quoted(first)
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in end:
            self.at += 1
        word = self.text[start : self.at].strip()
        if not word:
            self.fail("a value is missing")
        return _word(word)

    def quoted(self, quote: str) -> str:
        escapes = {"n": "\n", "t": "\t"} if quote == '"' else {}
        self.at += 1
        letters: list[str] = []
        while self.at < len(self.text):
            letter = self.text[self.at]
            self.at += 1
            if letter == quote:
                return "".join(letters)
            if letter == "\\" and quote != "%" and self.at < len(self.text):
                letter = self.text[self.at]
                letters.append(escapes.get(letter, letter if letter in f"\\{quote}" else f"\\{letter}"))
                self.at += 1
            else:
                letters.append(letter)
        self.fail(f"the closing {quote} is missing")

    def sequence(self, closing: str) -> list[object]:
        self.at += 1
        items: list[object] = []
        while self.peek() != closing:
            items.append(self.value(f",{closing}"))
            self.separator(closing)
        self.at += 1
        return items

    def mapping(self) -> dict[str, object]:
        self.at += 1
        items: dict[str, object] = {}
        while (first := self.peek()) != "}":
            key = self.quoted(first) if first and first in "\"'%" else str(self.name())
            if self.peek() != ":":
                self.fail(f"a colon is missing after {key!r}")
            self.at += 1
            if key in items:
                self.fail(f"the key {key!r} stands there twice")
            items[key] = self.value(",}")
            self.separator("}")
        self.at += 1
        return items

    def name(self) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in ":,}":
            self.at += 1
        return self.text[start : self.at].strip() or self.fail("a key is missing")

    def separator(self, closing: str) -> None:
        follows = self.peek()
        if follows == ",":
            self.at += 1
        elif follows != closing:
            self.fail(f"{follows!r} where , or {closing} belongs" if follows else f"the closing {closing} is missing")


def split_search(argv: Sequence[str]) -> tuple[list[str], dict[str, Distribution]]:
    """Take the search ranges out of a command line.

    ``lr=log(1e-5,1e-1)`` (whole bounds: whole numbers), ``uniform(0,1)``, ``int(1,8)``, ``normal(0,1)``,
    ``lognormal(0,1)``, ``logit(0.01,0.99)``, ``choice(a,b)``, ``ordinal(1,2,4)`` and a bare list ``depth=50,101``; more
    arguments by name: ``uniform(0,1,num=5)``.

    Returns:
        The remaining words, and the ranges by dotted name, for :class:`sweep.SearchSpace`.

    Raises:
        ConfigError: A range with wrong arguments; a range function that nobody knows.

    Example:
        >>> words, ranges = split_search(["high_lr", "lr=log(1e-5,1e-1)", "depth=50,101", "seed=1"])
        >>> words, sorted(ranges)
        (['high_lr', 'seed=1'], ['depth', 'lr'])
    """
    rest: list[str] = []
    ranges: dict[str, Distribution] = {}
    for word in joined(argv):
        key, sign, text = word.partition("=")
        found = search_range(word, text.strip()) if sign and _KEY.fullmatch(key) else None
        if found is None:
            rest.append(word)
        else:
            ranges[key] = found
    return rest, ranges


def range_hint(text: str) -> str:
    """Return a hint for text that looks like a search range where one value is expected."""
    if "," not in text or text[:1] in _CLOSING:
        return ""
    return "; search ranges are read by `sweep run`, and by split_search"


def search_range(word: str, text: str) -> Distribution | None:
    """Return the range that a value's text describes, or None where it is a plain value.

    Args:
        word: Where the text stands, for messages.
        text: The value as written.

    Raises:
        ConfigError: A range with wrong arguments; a range function that nobody knows. It names ``word``.
    """
    match = _RANGE.fullmatch(text)
    if match is None and text.partition("(")[0] in RANGES and "(" in text:
        raise ConfigError(f"{word!r}: the closing ) is missing, or something follows it")
    items = _items(match.group(2) if match else text)
    if items is None:
        return None
    arguments, named = items
    if match is None:
        return _range("choice", arguments, {}, word) if len(arguments) > 1 and not named else None
    name = match.group(1)
    if name in RANGES:
        return _range(name, arguments, named, word)
    if len(arguments) > 1 and near_miss(name, RANGES) is not None:
        raise UnknownName("range", name, RANGES, word)
    return None


def _range(name: str, arguments: Sequence[object], named: Mapping[str, object], word: str) -> Distribution:
    """Return a range that has been found right by itself."""
    from sweep import space

    whole = name == "log" and all(type(bound) is int for bound in arguments[:2])
    kind = getattr(space, "LogInteger" if whole else RANGES[name])
    try:
        found: Distribution = kind(arguments, **named) if name in ("choice", "ordinal") else kind(*arguments, **named)
        space.SearchSpace({"it": found})
    except TypeError as error:
        known = inspect.signature(kind).parameters.values()
        takes = [f"[{one.name}=]" if one.default is not one.empty else one.name for one in known if one.name != "when"]
        raise ConfigError(f"{word!r}: expected {name}({', '.join(takes)})") from error
    except SpaceError as error:
        raise ConfigError(f"{word!r}: {'; '.join(problem for _, problem in error.problems)}") from error
    return found


def _items(text: str) -> tuple[list[object], dict[str, object]] | None:
    """Split ``1, 2, num=5`` into values and named values; None where it is no such list."""
    try:
        items = _Reader(f"[{text}]").sequence("]") if text else []
    except ConfigError:
        return None
    values: list[object] = []
    named: dict[str, object] = {}
    for item in items:
        match = re.fullmatch(r"([a-z]+)=(.+)", item) if isinstance(item, str) else None
        if match is None:
            values.append(item)
        else:
            named[match.group(1)] = parse_value(match.group(2))
    return values, named
