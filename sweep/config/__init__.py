"""Configuration that can say why: ADict, Scope, MultiScope and the functions round them.

Everything is imported on first use; ``import sweep.config`` itself costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweep.faces import lazy

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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "adict": "ADict structural_hash",
        "commandline": "parse_value split_search",
        "compose": "compose_hierarchy",
        "layers": "diff explain",
        "mmconfig": "read_mm_config",
        "scope": "MultiScope Scope",
    },
)
