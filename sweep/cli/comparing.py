"""Commands that put results side by side or take them elsewhere: compare, export."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweep.cli.face import Face, flags, plain, short, table

if TYPE_CHECKING:
    from sweep.store.runs import RunRow
    from sweep.store.writer import Store

__all__ = ["compare", "export"]

_FACTS = ("status", "score", "trials", "trials_done", "seconds")


@click.command()
@click.argument("references", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("-a", "--all", "everything", is_flag=True, help="What is equal, too.")
@flags
def compare(face: Face, references: tuple[str, ...], everything: bool) -> None:
    """Put runs side by side: what differs."""
    if len(references) < 2:
        raise click.UsageError("compare needs at least two runs: sweep compare RUN RUN")
    from sweep.store.runs import find_run

    with face.open() as store:
        facts = [_facts(store, find_run(store, reference)) for reference in references]
    names = list(dict.fromkeys(name for one in facts for name in one if name != "run"))
    rows = {name: [one.get(name) for one in facts] for name in names}
    kept = {name: values for name, values in rows.items() if everything or _differ(values) or name in _FACTS}
    runs = [str(one["run"]) for one in facts]
    lines: list[list[Any]] = [["", *runs], *([name, *(short(value, 40) for value in values)] for name, values in kept.items())]
    face.show({"runs": runs, "facts": kept}, lambda: table(lines))


def _differ(values: list[Any]) -> bool:
    return any(value != values[0] for value in values)


def _facts(store: Store, row: RunRow) -> dict[str, object]:
    from sweep.cli.rows import overview
    from sweep.clock import current_clock

    seen = overview(store, row, current_clock().wall())
    result = row.data("result")
    best = result.get("best_params") if isinstance(result, dict) else None
    return {
        "run": seen["path"],
        **{name: seen[name] for name in _FACTS},
        **_flat("best.", best or {}),
        **_flat("", {"params": row.data("params") or {}, "seed": row.seed, **(row.data("identity") or {})}),
    }


def _flat(prefix: str, data: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= _flat(f"{prefix}{key}.", value)
        else:
            found[f"{prefix}{key}"] = value
    return found


# ---------------------------------------------------------------- export


@click.command()
@click.argument("reference", metavar="RUN")
@click.option("--format", "kind", type=click.Choice(["csv", "json", "jsonl"]), help="Default: by the file's ending, else csv.")
@click.option("-o", "--output", metavar="FILE", help="Default: stdout.")
@click.option("--metrics", "only_metrics", is_flag=True, help="One row for each metric at each step, instead of each trial.")
@flags
def export(face: Face, reference: str, kind: str | None, output: str | None, only_metrics: bool) -> None:
    """Write trials or metrics as csv, json or jsonl."""
    from sweep.store.runs import find_run

    kind = kind or ("json" if face.json else _by_ending(output))
    with face.open() as store:
        row = find_run(store, reference)
        trials = _trials(store, row, with_history=only_metrics or kind != "csv")
    rows = [each for one in trials for each in _history_rows(one)] if only_metrics else trials
    text = _written(rows, kind)
    if output is None or output == "-":
        click.echo(text, nl=False)
    else:
        Path(output).write_text(text, encoding="utf-8")
        face.say(f"{len(rows)} rows in {output}")


def _by_ending(output: str | None) -> str:
    ending = Path(output).suffix.removeprefix(".") if output else ""
    return ending if ending in ("json", "jsonl") else "csv"


def _trials(store: Store, row: RunRow, *, with_history: bool) -> list[dict[str, object]]:
    """Return every trial below a run (of a run without trials: the run itself), with its path."""
    from sweep.cli.rows import trials_of
    from sweep.store.runs import TRIAL, descendants, path_of

    sweeps = [one for _, one in descendants(store, row) if one.level == "sweep"]
    found = [{"sweep": path_of(store, one), **trial} for one in sweeps for trial in trials_of(store, one)]
    if row.level == TRIAL:
        found = [one for one in _trials(store, _parent(store, row), with_history=False) if one["id"] == row.id]
    if not found:
        found = [{"sweep": path_of(store, row), "number": None, "id": row.id, "params": row.data("params") or {}, "metrics": {}}]
    if with_history:
        for one in found:
            query = "SELECT step, name, value FROM metric WHERE run_id=? ORDER BY id"
            one["history"] = [{"step": s, "name": n, "value": v} for s, n, v in store.rows(query, (one["id"],))]
    return found


def _parent(store: Store, row: RunRow) -> RunRow:
    from sweep.store.runs import read_run

    return read_run(store, row.parent_id)


def _history_rows(trial: Mapping[str, Any]) -> list[dict[str, object]]:
    return [{"sweep": trial["sweep"], "trial": trial["number"], **one} for one in trial["history"]]


def _written(rows: list[dict[str, Any]], kind: str) -> str:
    if kind == "json":
        return json.dumps(plain(rows), indent=2) + "\n"
    if kind == "jsonl":
        return "".join(json.dumps(plain(row)) + "\n" for row in rows)
    flat = [_columns(row) for row in rows]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def _columns(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a trial as columns: parameters by name, metrics as ``metric.NAME``."""
    nested = {f"param.{name}": value for name, value in row.get("params", {}).items()}
    nested |= {f"metric.{name}": value for name, value in row.get("metrics", {}).items()}
    return {name: value for name, value in row.items() if name not in ("params", "metrics", "history")} | nested
