"""Configuration that can say why: ADict, Scope, MultiScope and the functions round them.

Everything is imported on first use; ``import sweep.config`` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sweep.errors import did_you_mean

if TYPE_CHECKING:  # names for type checkers; at run time __getattr__ imports one file
    from sweep.config.adict import ADict, structural_hash
    from sweep.config.commandline import parse_value, split_search
    from sweep.config.compose import compose_hierarchy
    from sweep.config.layers import diff, explain
    from sweep.config.mmconfig import read_mm_config
    from sweep.config.scope import MultiScope, Scope

__all__ = [
    "ADict",
    "MultiScope",
    "Scope",
    "compose_hierarchy",
    "diff",
    "explain",
    "parse_value",
    "read_mm_config",
    "split_search",
    "structural_hash",
]

_FILES = {
    "ADict": "adict",
    "MultiScope": "scope",
    "Scope": "scope",
    "compose_hierarchy": "compose",
    "diff": "layers",
    "explain": "layers",
    "parse_value": "commandline",
    "read_mm_config": "mmconfig",
    "split_search": "commandline",
    "structural_hash": "adict",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'sweep.config' has no attribute {name!r}{did_you_mean(name, __all__)}")
    return getattr(import_module(f"sweep.config.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
