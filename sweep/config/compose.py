"""Directories of config groups, composed as Hydra composes them.

Understands Hydra's defaults lists (``_self_``, ``group: option``, lists of options, nested and
relative lists, ``/absolute``, ``group@package``, ``optional``, ``override``, ``null``,
``${group}`` in an option), ``# @package`` headers and ``${interpolation}`` (through OmegaConf,
extra ``hydra``). Written from Hydra's documentation and tested against ``hydra.compose``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from sweep.config import files
from sweep.config.files import Data
from sweep.errors import ConfigError, ConfigFileMissing, MissingExtra, near_miss

__all__ = ["compose_hierarchy"]

_HEADER = re.compile(r"\s*#[#\s]*@(\w+)\s+(\S+)\s*")
_GROUP_KEY = re.compile(r"(?P<flags>(?:(?:optional|override)\s+)*)(?P<path>[^@\s]+)(?:@(?P<package>\S+))?")
_CHOICE = re.compile(r"\$\{([^}]+)\}")
_HYDRAS = re.compile(r"(override\s+|optional\s+)*/?hydra/")
_UNSET = "???"  # Hydra's "must be given"


def compose_hierarchy(
    root: str | PathLike[str],
    config_filename: str = "config",
    select: Mapping[str, str | Sequence[str] | None] | None = None,
    overrides: Mapping[str, object] | None = None,
    required: Sequence[str] = (),
    on_missing: str = "error",
) -> dict[str, Any]:
    """Compose ``root/config_filename`` with the options of its groups.

    Args:
        root: The directory; a group is a directory in it, an option a file in the group.
        config_filename: The base config, without suffix (``.yaml .yml .json .toml .xyz`` are tried).
        select: Group to option, or to several options (merged in order). Overrules the defaults list.
        overrides: Dotted key to value, set last.
        required: Dotted keys that must have a value in the end.
        on_missing: What a missing file does: ``"error"``, or ``"warn"`` and go on without it.

    Returns:
        Plain data. An option's content stands under its group's name (or where its ``@package`` says).
        A file of a hierarchy without defaults list that names its group itself (``model/resnet50.yaml``
        holding only ``model: {…}``) is not nested a second time.

    Raises:
        ConfigFileMissing: The base config or an option is missing; names those there are.
        ConfigError: A malformed defaults list, two files for one option, an override that is a near
            miss of a key, required keys without a value (all of them).
        MissingExtra: There are interpolations and OmegaConf is not installed.
    """
    if on_missing not in ("error", "warn"):
        raise ConfigError(f"on_missing={on_missing!r}: it is 'error' or 'warn'")
    composer = _Composer(Path(root), dict(select or {}), on_missing == "warn")
    values = composer.compose(config_filename)
    values.pop("hydra", None)  # Hydra's own settings, which its compose leaves out too
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    values = _interpolated(values, str(root))
    _require(values, required)
    return values


@dataclass(slots=True)
class _Entry:
    """One line of a defaults list."""

    path: str  # of the group, or of the config where there is no option
    option: Any = None
    is_group: bool = False
    package: str | None = None
    optional: bool = False
    override: bool = False

    def group(self, base: str) -> str:
        """Return the directory its config lies in, from the root."""
        folder = self.path if self.is_group else self.path.rpartition("/")[0]
        if self.path.startswith("/"):
            return folder.lstrip("/")
        return "/".join(part for part in (base, folder) if part)

    def name(self) -> str:
        return str(self.option) if self.is_group else self.path.rpartition("/")[2]

    def target(self, base: str, parent: str, header: str | None = None) -> str:
        """Return the package its content goes to."""
        package = self.package if self.package is not None else header
        if package is None:
            folder = self.path if self.is_group else self.path.rpartition("/")[0]
            package = folder.lstrip("/").replace("/", ".")
        elif "_group_" in package:
            package = "_global_." + package.replace("_group_", self.group(base).replace("/", "."))
        elif package == "_here_":
            package = ""
        whole = ".".join(part for part in (parent, package) if part)
        return whole.rpartition("_global_")[2].lstrip(".")

    def key(self, base: str, parent: str) -> str:
        """Return the name under which this choice can be overruled."""
        group, package = self.group(base), self.target(base, parent)
        return group if package == group.replace("/", ".") else f"{group}@{package or '_global_'}"


Part = tuple[str, dict[str, object]]  # where it goes, what it holds


class _Composer:
    """Walks the defaults lists: one file is a list of parts, in the order in which they are merged."""

    def __init__(self, root: Path, select: Mapping[str, object], lenient: bool) -> None:
        self.root, self.select, self.lenient = root, select, lenient
        self.begin()

    def begin(self) -> None:
        self.overruled: dict[str, object] = dict(self.select)  # choice key to option; the outermost word counts
        self.own: dict[str, str] = {}  # overrides in defaults lists, by key: the file that has them
        self.used: set[str] = set()
        self.choices: dict[str, object] = {}
        self.missing: list[str] = []
        self.has_defaults = False

    def compose(self, name: str) -> dict[str, object]:
        parts = self.config(_Entry(name), "", "", first=True)
        extra = [_chosen(group, option) for group, option in self.select.items() if group not in self.used]
        if extra:  # selected groups that no defaults list names: as if they stood at its end
            self.begin()
            parts = self.config(_Entry(name), "", "", first=True, extra=extra)
        for key in self.own.keys() - self.used:
            raise ConfigError(f"{self.own[key]}: override {key}: no defaults list has that{_near(key, self.choices)}")
        for message in dict.fromkeys(self.missing):
            warnings.warn(f"{message}; going on without it", UserWarning, stacklevel=4)
        merged: dict[str, object] = {}
        for package, content in parts:
            for step in reversed(package.split(".") if package else []):
                content = {step: content}
            _merge(merged, content)
        return merged

    def config(
        self, entry: _Entry, base: str, parent: str, *, first: bool = False, extra: Sequence[_Entry] = ()
    ) -> list[Part]:
        """Return what one config file and its defaults list come to, in order."""
        group = entry.group(base)
        file = self.find(group, entry.name(), entry.optional, "base config" if first else "option")
        if file is None and not first:
            return []
        content = files.read(file, dates=False) if file is not None else {}
        package = entry.target(base, parent, _header(file))
        lines = _defaults(content, str(file))
        self.has_defaults = self.has_defaults or (first and bool(lines))
        for line in lines:
            key = line.key(group, package)
            if line.override and key not in self.overruled:
                self.overruled[key], self.own[key] = line.option, str(file)
        lines = [line for line in lines if not line.override]
        if all(line.path != "_self_" for line in lines):
            lines.append(_Entry("_self_"))  # by default a config overrides what it is built on
        return self.parts([*lines, *extra], (package, content), group, package)

    def parts(self, lines: Sequence[_Entry], own: Part, base: str, parent: str) -> list[Part]:
        """Return what the lines of one defaults list come to, in their order."""
        found: list[list[Part] | None] = [[own] if line.path == "_self_" else None for line in lines]
        for late in (False, True):  # options that refer to other choices come when all choices are known
            for index in reversed(range(len(lines))):  # the last line may overrule choices of earlier ones
                if found[index] is None:
                    found[index] = self.options(lines[index], base, parent, late)
        return [part for parts in found for part in parts or ()]

    def options(self, entry: _Entry, base: str, parent: str, late: bool) -> list[Part] | None:
        """Return what one line comes to; None if it refers to choices not made yet and is not ``late``."""
        if not entry.is_group:
            return self.config(entry, base, parent)
        key = entry.key(base, parent)
        option = entry.option
        if key in self.overruled:
            option = self.overruled[key]
            self.used.add(key)
        if isinstance(option, str) and "${" in option:
            if not late:
                return None
            option = _CHOICE.sub(lambda match: self.choice(match, entry), option)
        if self.choices.setdefault(key, option) != option:
            raise ConfigError(f"{key!r} is chosen twice: {self.choices[key]!r} and {option!r}; write override {key}")
        if option is None:
            return []
        if option == _UNSET:
            raise ConfigError(f"choose an option of {key!r}; there are: {', '.join(self.names(entry.group(base)))}")
        parts: list[Part] = []
        for name in [option] if isinstance(option, str) else option:
            chosen = _Entry(entry.path, name, True, entry.package, entry.optional)
            parts += self.unwrapped(entry.group(base), self.config(chosen, base, parent))
        return parts

    def choice(self, match: re.Match[str], entry: _Entry) -> str:
        if match.group(1) not in self.choices:
            raise ConfigError(
                f"{entry.path}: {entry.option}: no choice {match.group(1)!r}{_near(match.group(1), self.choices)}"
            )
        return str(self.choices[match.group(1)])

    def unwrapped(self, group: str, parts: list[Part]) -> list[Part]:
        """Undo the nesting of files that name their group themselves (no defaults list: not Hydra's layout)."""
        last = group.rpartition("/")[2]
        if self.has_defaults:
            return parts
        return [
            (package.rpartition(".")[0], content)
            if package == group.replace("/", ".") and list(content) == [last] and isinstance(content[last], dict)
            else (package, content)
            for package, content in parts
        ]

    def find(self, group: str, name: str, optional: bool, what: str) -> Path | None:
        folder = self.root / group
        name = name.removesuffix(".yaml").removesuffix(".yml")
        found = [folder / f"{name}{suffix}" for suffix in files.SUFFIXES if (folder / f"{name}{suffix}").is_file()]
        if len(found) > 1:
            raise ConfigError(f"{folder / name}: two files for one {what}: {found[0].name} and {found[1].name}")
        if found:
            return found[0]
        if optional:
            return None
        shown = f"{group}/{name}" if group else name
        missing = ConfigFileMissing(
            f"{what} {shown!r} in {self.root}{_near(name, self.names(group))}", self.names(group)
        )
        if not self.lenient:
            raise missing
        self.missing.append(str(missing))
        return None

    def names(self, group: str) -> list[str]:
        folder = self.root / group
        if not folder.is_dir():
            return sorted(f"{one.name}/" for one in self.root.iterdir() if one.is_dir()) if self.root.is_dir() else []
        return sorted({one.stem for one in folder.iterdir() if one.suffix in files.SUFFIXES})


def _near(name: str, known: Iterable[object]) -> str:
    meant = near_miss(name, [str(one) for one in known])
    return f" (did you mean {meant!r}?)" if meant is not None else ""


def _header(file: Path | None) -> str | None:
    """Return the package of a ``# @package`` line at the very top, made absolute (another comment ends the header)."""
    if file is None or file.suffix not in (".yaml", ".yml"):
        return None
    for line in files.read_text(file).splitlines():
        match = _HEADER.fullmatch(line)
        if match is None and line.strip():
            return None
        if match is not None and match.group(1) == "package":
            name = match.group(2)
            return name if name.startswith("_global_") else f"_global_.{name}"
    return None


def _defaults(content: Data, file: str) -> list[_Entry]:
    """Take the defaults list out of a config; what only configures Hydra itself is left out."""
    lines = content.pop("defaults", None)
    if lines is None:
        return []
    if not isinstance(lines, list):
        raise ConfigError(f"{file}: defaults is a list of choices, not {lines!r}")
    heads = [next(iter(line), "") if isinstance(line, dict) else line for line in lines]
    return [_entry(line, file) for line, head in zip(lines, heads, strict=True) if not _HYDRAS.match(str(head))]


def _chosen(group: str, option: object) -> _Entry:
    path, _, package = group.partition("@")
    return _Entry(path, option, True, package or None)


def _entry(line: object, file: str) -> _Entry:
    group = isinstance(line, dict) and len(line) == 1
    head, option = next(iter(line.items())) if isinstance(line, dict) and group else (line, None)
    match = _GROUP_KEY.fullmatch(str(head).strip()) if group or isinstance(line, str) else None
    if match is None or not _is_option(option) or (not group and "override" in match["flags"]):
        raise ConfigError(f"{file}: {line!r} is no line of a defaults list; write - group: option, - config or - _self_")
    chosen = str(option) if isinstance(option, int | float) else option
    flags = match["flags"]
    return _Entry(match["path"], chosen, group, match["package"], "optional" in flags, "override" in flags)


def _is_option(value: object) -> bool:
    several = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return several or value is None or isinstance(value, str | int | float)


def _merge(into: Data, values: Mapping[str, object]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            old = into.get(key)
            into[key] = old if isinstance(old, dict) else {}
            _merge(into[key], value)
        else:
            into[key] = value


def _override(values: Data, key: str, value: object) -> None:
    node = values
    *folders, last = key.split(".")
    for depth, step in enumerate([*folders, last]):
        if not isinstance(node, dict):
            raise ConfigError(f"override {key!r}: {'.'.join(key.split('.')[:depth])!r} is a value, not a group")
        meant = None if step in node else near_miss(step, [str(name) for name in node])
        if meant is not None:
            raise ConfigError(f"override {key!r}: unknown key {step!r}; did you mean {meant!r}?")
        if depth < len(folders):
            node = node.setdefault(step, {})
    node[last] = value


def _interpolated(values: Data, where: str) -> Data:
    if not _mentions(values):
        return values
    try:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    except ImportError as error:
        raise MissingExtra("${interpolation} in a config", "omegaconf", "hydra") from error
    try:
        found: Any = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]} (at {error.full_key!r})") from error
    return dict(found)


def _mentions(value: object) -> bool:
    if isinstance(value, dict):
        return any(_mentions(item) for item in value.values())
    if isinstance(value, list):
        return any(_mentions(item) for item in value)
    return isinstance(value, str) and "${" in value


def _require(values: dict[str, object], required: Sequence[str]) -> None:
    missing = []
    for key in required:
        node: object = values
        for step in key.split("."):
            known = list(node) if isinstance(node, dict) else []
            node = node.get(step, _UNSET) if isinstance(node, dict) else _UNSET
            if node == _UNSET:
                missing.append(f"{key!r}{_near(step, known)}")
                break
    if missing:
        raise ConfigError(f"required keys without a value: {', '.join(missing)}")
