"""Commands that put results side by side or take them elsewhere: compare, export."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweep.cli.face import Face, flags, plain, short, table
from sweep.errors import ConfigError

if TYPE_CHECKING:
    from sweep.cli.rows import Facts
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
    kept = {}
    for name in dict.fromkeys(name for one in facts for name in one if name != "run"):
        values = [one.get(name) for one in facts]
        if everything or name in _FACTS or any(value != values[0] for value in values):
            kept[name] = values
    runs = [str(one["run"]) for one in facts]
    lines = [[name, *(short(value, 40) for value in values)] for name, values in kept.items()]
    face.show({"runs": runs, "facts": kept}, lambda: table([["", *runs], *lines]))


def _facts(store: Store, row: RunRow) -> Facts:
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


def _flat(prefix: str, data: Mapping[str, object]) -> Facts:
    found: Facts = {}
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

    ending = Path(output or "").suffix.removeprefix(".")
    kind = kind or ("json" if face.json else ending if ending in ("json", "jsonl") else "csv")
    with face.open() as store:
        row = find_run(store, reference)
        trials = _trials(store, row, with_history=only_metrics or kind != "csv")
    rows = trials
    if only_metrics:
        rows = [{"sweep": one["sweep"], "trial": one["number"], **step} for one in trials for step in one["history"]]
    if not rows:
        face.say(f"{reference} has no {'metrics' if only_metrics else 'trials'} yet")
    text = _written(rows, kind)
    if output is None or output == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"-o {output}: it cannot be written: {error.strerror}") from error
    face.say(f"{len(rows)} rows in {output}")


def _trials(store: Store, row: RunRow, *, with_history: bool) -> list[Facts]:
    """Return every trial below a run, a trial by itself, and a run without sweeps as one row; with its path."""
    from sweep.cli.rows import overview, trials_of
    from sweep.clock import current_clock
    from sweep.store.runs import TRIAL, descendants, path_of, read_run

    top = read_run(store, row.parent_id) if row.level == TRIAL else row
    sweeps = [one for _, one in descendants(store, top) if one.level == "sweep"]
    found = [{"sweep": path_of(store, one), **trial} for one in sweeps for trial in trials_of(store, one)]
    if row.level == TRIAL:
        found = [one for one in found if one["id"] == row.id]
    elif not sweeps:
        seen = overview(store, row, current_clock().wall())
        told = {name: seen[name] for name in ("id", "status", "reason", "score", "error", "started", "ended")}
        found = [{"sweep": seen["path"], "number": None, **told, "params": row.data("params") or {}, "metrics": {}}]
    if with_history:
        for one in found:
            query = "SELECT step, name, value FROM metric WHERE run_id=? ORDER BY id"
            one["history"] = [{"step": s, "name": n, "value": v} for s, n, v in store.rows(query, (one["id"],))]
    return found


def _written(rows: list[Facts], kind: str) -> str:
    if kind == "json":
        return json.dumps(plain(rows), indent=2) + "\n"
    if kind == "jsonl":
        return "".join(json.dumps(plain(row)) + "\n" for row in rows)
    if not rows:
        return ""
    flat = [_columns(row) for row in rows]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def _columns(row: Facts) -> Facts:
    """Return a trial as columns: parameters by name, metrics as ``metric.NAME``."""
    nested = {f"param.{name}": value for name, value in row.get("params", {}).items()}
    nested |= {f"metric.{name}": value for name, value in row.get("metrics", {}).items()}
    return {name: value for name, value in row.items() if name not in ("params", "metrics", "history")} | nested
