"""Dotted names: flat params to nested ones and back."""

from __future__ import annotations

from collections.abc import Container, Mapping

from sweep.errors import SpaceError
from sweep.space.values import Params

__all__ = ["flatten", "nest"]


def nest(params: Mapping[str, object]) -> Params:
    """Group a flat mapping with dotted names into nested dicts.

    Raises:
        SpaceError: A name is a value and a group at once.

    Example:
        >>> nest({"model.lr": 0.1, "model.depth": 3, "seed": 7})
        {'model': {'lr': 0.1, 'depth': 3}, 'seed': 7}
    """
    nested: Params = {}
    groups = {"": nested}
    for name, value in params.items():
        *outer, last = name.split(".")
        path, group = "", nested
        for part in outer:
            path = f"{path}.{part}" if path else part
            if path not in groups:
                if part in group:
                    raise SpaceError(path, f"is a value, but {name!r} needs it as a group: rename one")
                groups[path] = group[part] = {}
            group = groups[path]
        if last in group:
            raise SpaceError(name, "is a group of others and cannot be a value too: rename one")
        group[last] = value
    return nested


def flatten(nested: Mapping[str, object], names: Container[str] = ()) -> Params:
    """Undo `nest`: one flat dict with dotted names.

    Args:
        nested: Nested mappings; dotted names in it are fine.
        names: Dotted names whose value is left whole, even when it is a mapping (a search space fits).

    Raises:
        SpaceError: A name is not text, or appears twice.

    Example:
        >>> flatten({"model": {"lr": 0.1, "depth": 3}, "seed": 7})
        {'model.lr': 0.1, 'model.depth': 3, 'seed': 7}
    """
    flat: Params = {}
    _descend(nested, "", names, flat)
    return flat


def _descend(nested: Mapping[str, object], prefix: str, names: Container[str], flat: Params) -> None:
    for part, value in nested.items():
        if not isinstance(part, str):
            raise SpaceError(f"{prefix}{part}", f"the name {part!r} ({type(part).__name__}) is not text")
        name = prefix + part
        if name not in names and isinstance(value, Mapping) and value:
            _descend(value, f"{name}.", names, flat)
        elif name in flat:
            raise SpaceError(name, "is given twice, nested and dotted: keep one")
        else:
            flat[name] = value
