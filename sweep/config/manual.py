"""The manual of a scope: the order of its views, what applies here, and the user's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweep.config.adict import dotted, leaves
from sweep.config.views import Plan, View, by_priority

__all__ = ["RULE", "manual_text"]

RULE = "-" * 50


def manual_text(
    name: str, views: Mapping[str, View], plan: Plan, inputs: Sequence[str], main: str, manuals: Mapping[Any, Any]
) -> str:
    """Return a scope's part of the manual, without the closing rule. No view is run for it.

    Args:
        name: Name of the scope.
        views: All its views.
        plan: What this invocation applies.
        inputs: The explicit inputs of this invocation, as written.
        main: Name of the function that uses the config.
        manuals: Nested texts by key.
    """
    eager = by_priority(view for view in views.values() if not view.lazy)
    lazy = by_priority(view for view in views.values() if view.lazy)
    shown = f"(CLI Inputs: {' '.join(inputs)})" if inputs else "(CLI Inputs)"
    return "\n".join(
        [
            RULE,
            f'[Scope "{name}"]',
            "(The Applying Order of Views)",
            _line(eager, "(CLI Inputs)", lazy, main),
            "(Applied Here)",
            _line([*plan.defaults, *plan.selected], shown, plan.lazy, main),
            "",
            "(User Manuals)",
            *(f"{name}.{dotted(path)}: {text}" for path, text in leaves(manuals)),
        ]
    )


def _line(eager: Sequence[View], inputs: str, lazy: Sequence[View], main: str) -> str:
    blocks = [f"{view.name} (lazy block)" for view in eager if view.has_lazy_block]
    return " → ".join([*(view.name for view in eager), inputs, *blocks, *(view.name for view in lazy), main])
