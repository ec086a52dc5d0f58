"""Config files: JSON, YAML, TOML and XYZ as plain data, read back exactly as written.

What a format cannot hold is refused by name before anything is written; tuples become lists in
all of them. Nothing in a file is ever executed: YAML is read without Python tags.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from sweep.config import xyz
from sweep.errors import ConfigError, ConfigFileMissing, did_you_mean

__all__ = ["SUFFIXES", "Data", "Items", "read", "read_text", "write"]

Data = dict[Any, Any]  # plain data; keys are nearly always text
Items = Mapping[Any, object]

SUFFIXES = (".yaml", ".yml", ".json", ".toml", ".xyz")

_MOST_NODES = 1_000_000  # more than any config holds: an alias bomb
_TIMES = (datetime.date, datetime.time)  # datetime is a date


def read(path: str | PathLike[str], *, dates: bool = True) -> Data:
    """Read a config file; its suffix says the format.

    Args:
        path: The file.
        dates: Read unquoted YAML dates as dates; False leaves them text, as Hydra does.

    Raises:
        ConfigFileMissing: There is no such file.
        ConfigError: Unknown suffix, malformed content (with its line), or no mapping at the top.
    """
    suffix = _suffix(path)
    data = _loads(read_text(path), suffix, str(path), dates)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config file holds a mapping, this one holds a {type(data).__name__}")
    _bounded(data, str(path), [0], 0)
    return data


def read_text(path: str | PathLike[str]) -> str:
    """Return a file's text (UTF-8).

    Raises:
        ConfigFileMissing: There is no such file; names its neighbours.
        ConfigError: It cannot be read.
    """
    file = Path(path)
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        folder = file.parent
        around = sorted(other.name for other in folder.iterdir()) if folder.is_dir() else []
        hint = did_you_mean(file.name, around)
        raise ConfigFileMissing(f"config file {str(path)!r}{hint and f' ({hint[2:]})'}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} cannot be read: {error}") from error


def write(path: str | PathLike[str], data: Items) -> None:
    """Write ``data`` in the format that the suffix of ``path`` names; makes missing directories.

    The file is replaced in one step, by a whole one: whatever happens meanwhile, the old one stays as it is.

    Raises:
        ConfigError: Unknown suffix, a key or value that the format cannot hold, or a file that cannot be written.
    """
    suffix = _suffix(path)
    text = _dumps(data, suffix)
    file = Path(os.path.realpath(path))  # of a link, what it points to
    half = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with half.open("wb") as out:
            out.write(text.encode("utf-8"))
            out.flush()
            os.fsync(out.fileno())
        if file.exists():
            half.chmod(file.stat().st_mode)
        half.replace(file)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{path}: text that is no valid Unicode cannot be written: {error}") from error
    except OSError as error:
        raise ConfigError(f"config file {str(path)!r} cannot be written ({error}); what was there is as it was") from error
    finally:
        with suppress(OSError):
            half.unlink()


def _suffix(path: str | PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"config file {str(path)!r}: the suffix is to be one of {', '.join(SUFFIXES)}")
    return suffix


def _loads(text: str, suffix: str, where: str, dates: bool) -> object:
    if suffix == ".xyz":
        return xyz.loads(text, where)
    if suffix == ".toml":
        import tomllib

        return _located(where, tomllib.TOMLDecodeError, lambda: tomllib.loads(text))
    if suffix == ".json":
        return _located(where, json.JSONDecodeError, lambda: json.loads(text, object_pairs_hook=_unique))
    yaml, loader, _ = _yaml(dates)
    return _located(where, yaml.YAMLError, lambda: yaml.load(text, Loader=loader))  # Loader is a SafeLoader


def _located(where: str, kind: type[Exception], load: Callable[[], object]) -> object:
    try:
        return load()
    except kind as error:
        mark = getattr(error, "problem_mark", None)
        line = getattr(error, "lineno", None) if mark is None else mark.line + 1
        text = getattr(error, "problem", None) or getattr(error, "msg", None) or str(error)
        if "python/" in text:
            text += "; a config file is plain data, and nothing in it is run"
        raise ConfigError(f"{where}{f':{line}' if line else ''}: {text}") from error
    except (ValueError, RecursionError) as error:  # a duplicate key, a date that does not exist, nesting without end
        raise ConfigError(f"{where}: {error}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in names if names.count(key) > 1)!r} stands there twice")
    return found


@cache
def _yaml(dates: bool) -> tuple[Any, object, object]:
    """Return (yaml, loader, dumper): safe, numbers like 1e-5 are numbers, a key may stand once."""
    import yaml

    number = re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    )

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[tuple[str, object]] = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                name = (key.tag, key.value if isinstance(key.value, str) else id(key))
                if name in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands there twice", key.start_mark
                    )
                seen.add(name)
            return super().construct_mapping(node, deep)

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    for one in (Loader, Dumper):
        one.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    if not dates:
        Loader.yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in rules if not tag.endswith(":timestamp")]
            for first, rules in Loader.yaml_implicit_resolvers.items()
        }
    return yaml, Loader, Dumper


def _bounded(value: object, where: str, count: list[int], depth: int) -> None:
    count[0] += 1
    if count[0] > _MOST_NODES or depth > 200:
        raise ConfigError(f"{where}: nested without end, or more than {_MOST_NODES} values (an alias that repeats?)")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _bounded(item, where, count, depth + 1)


def _dumps(data: Items, suffix: str) -> str:
    plain = _holdable(data, "", suffix)
    if suffix == ".json":
        return json.dumps(plain, indent=2) + "\n"
    if suffix == ".xyz":
        return xyz.dumps(plain)
    if suffix == ".toml":
        import tomli_w

        return tomli_w.dumps(plain)
    yaml, _, dumper = _yaml(True)
    return str(yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=False))


def _holdable(value: object, path: str, suffix: str) -> Any:
    """Return ``value`` in exactly the types that the format gives back, or say where it cannot."""
    if isinstance(value, Mapping):
        return {key: _holdable(item, _key_path(key, path, suffix), suffix) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_holdable(item, f"{path}[{index}]", suffix) for index, item in enumerate(value)]
    for kind in (bool, int, float, str):
        if isinstance(value, kind) and not isinstance(value, Enum):
            return kind(value)
    if (value is None and suffix != ".toml") or _is_time(value, suffix):
        return value
    what = "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"
    instead = "leave the key out, or write another format" if value is None else "put plain data there"
    raise ConfigError(f"{path!r} is {what}, which {suffix} cannot hold; {instead}")


def _key_path(key: object, path: str, suffix: str) -> str:
    name = f"{path}.{key}" if path else str(key)
    if not (isinstance(key, str) or (suffix in (".yaml", ".yml") and type(key) in (int, float, bool))):
        raise ConfigError(f"key {name!r} is a {type(key).__name__}; {suffix} holds text keys only")
    return name


def _is_time(value: object, suffix: str) -> bool:
    if suffix == ".toml":
        return isinstance(value, _TIMES)
    return suffix in (".yaml", ".yml") and isinstance(value, datetime.date)
