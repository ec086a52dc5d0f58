"""Short tables for people, in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["columns", "short", "summary_table"]


def short(value: object) -> str:
    """Return a value in a few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Return rows of text as aligned columns.

    Example:
        >>> print(columns([["a", "bb"], ["ccc", "d"]], indent=""))
        a    bb
        ccc  d
    """
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    return "\n".join(
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def summary_table(result: Any, count: int) -> str:
    """Return the best trials of a sweep as a table, with what early stopping saved."""
    best = result.ranked(count)
    names = list(dict.fromkeys(name for trial in best for name in trial.params))
    rows = [["trial", "score", "step", "status", *names]]
    for trial in best:
        rows.append(
            [
                str(trial.number),
                short(trial.score),
                str(trial.step),
                str(trial.status),
                *(short(trial.params.get(n, "-")) for n in names),
            ]
        )
    lines = [f"{result.path}: {result.status} ({result.text})" if result.text else f"{result.path}: {result.status}"]
    lines.append(columns(rows) if best else "  no trial has a score")
    lines.append(f"  {len(result.trials)} trials, {result.n_failed} failed, {result.cost:.1f} s of work")
    if result.saved:
        whole = result.saved + result.resource
        lines.append(
            f"  early stopping saved {result.saved:.0f} of {whole:.0f} epochs ({100 * result.saved / whole:.0f}%)"
        )
    return "\n".join(lines)
