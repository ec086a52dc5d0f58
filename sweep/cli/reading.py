"""Commands that look: ls, show, logs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweep.cli.face import Face, age, flags, short, table

if TYPE_CHECKING:
    from sweep.cli.rows import Facts
    from sweep.store.runs import RunRow
    from sweep.store.writer import Store

__all__ = ["logs", "ls", "show"]

_LOGS = ("stdout.log", "stderr.log", "log.txt", "error.log")
_BEST = 10
_EVERY = 0.5


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Child runs, too.")
@flags
def ls(face: Face, everything: bool) -> None:
    """List the runs, the latest last."""
    from sweep.cli.rows import overview
    from sweep.clock import current_clock
    from sweep.store.runs import TRIAL, descendants, roots

    now = current_clock().wall()
    with face.open() as store:
        found = roots(store)
        if everything:
            found = [row for root in found for _, row in descendants(store, root) if row.level != TRIAL]
        runs = [overview(store, row, now) for row in found]
    rows: list[list[object]] = [["id", "path", "level", "status", "score", "trials", "age"]]
    for one in runs:
        trials = f"{one['trials_done']}/{one['trials']}" if one["trials"] else "-"
        rows.append([one["id"], one["path"], one["level"], one["status"], one["score"], trials, age(one["age"])])
    face.show(runs, lambda: table(rows) if runs else "no runs yet")


# ---------------------------------------------------------------- show


@click.command()
@click.argument("reference", metavar="RUN")
@click.option("-a", "--all", "everything", is_flag=True, help=f"All trials by number, not the {_BEST} best.")
@flags
def show(face: Face, reference: str, everything: bool) -> None:
    """Show a run as a tree, and why each part ended."""
    from sweep.cli.rows import tree
    from sweep.clock import current_clock
    from sweep.store.runs import TRIAL, find_run, read_run

    with face.open() as store:
        row = find_run(store, reference)
        node = tree(store, row, current_clock().wall())
        trial = _trial(store, read_run(store, row.parent_id), row.number) if row.level == TRIAL else None
    data = node if trial is None else {**node, "trial": trial}
    face.show(data, lambda: "\n".join(_node_lines(node, everything, "", trial)))


def _trial(store: Store, sweep: RunRow, number: int) -> Facts:
    from sweep.cli.rows import trials_of

    return next(one for one in trials_of(store, sweep) if one["number"] == number)


def _node_lines(
    node: Facts, everything: bool, indent: str, trial: Facts | None = None, above: str = ""
) -> Iterator[str]:
    """Yield the lines of a node and all below it; the path of a child is told from its parent's on."""
    from sweep.cli.rows import fold_loops
    from sweep.store.runs import TRIAL

    reason = f" ({node['reason']})" if node["reason"] not in (None, node["status"]) else ""
    took = "" if node["seconds"] is None else f"  {age(node['seconds'])}"
    score = "" if node["score"] is None else f"  score {node['score']:.6g}"
    yield f"{indent}{node['path'].removeprefix(above)}  (run {node['id']}, {node['level']})  {node['status']}{reason}{score}{took}"
    inner = indent + "  "
    if node["error"]:
        yield f"{inner}error: {node['error']}"
    if trial is not None:
        yield from _trial_lines(trial, node["metrics"], inner)
    elif node["params"] and not (above and node["level"] == TRIAL):  # the sweep's table has them
        yield f"{inner}" + ", ".join(f"{name}={short(value)}" for name, value in node["params"].items())
    for name, what in fold_loops(node["stages"]):
        yield f"{inner}{name}  {what}"
    if "list" in node:
        yield from _sweep_lines(node, everything, inner)
    for child in node["children"]:
        yield from _node_lines(child, everything, inner, above=f"{node['path']}/")


def _trial_lines(trial: Facts, metrics: list[Facts], indent: str) -> Iterator[str]:
    yield f"{indent}{trial['how']}"
    for name, value in trial["params"].items():
        yield f"{indent}{name} = {value!r}"
    if not metrics:
        return
    names = list(dict.fromkeys(one["name"] for one in metrics))
    by_step: dict[object, Facts] = {}
    for one in metrics:
        by_step.setdefault(one["step"], {})[one["name"]] = one["value"]
    rows = [["step", *names], *([step, *(values.get(name) for name in names)] for step, values in by_step.items())]
    yield table(rows, indent)


def _sweep_lines(node: Facts, everything: bool, indent: str) -> Iterator[str]:
    trials = node["list"]
    counts = ", ".join(f"{count} {status}" for status, count in sorted(node["counts"].items()))
    yield f"{indent}{len(trials)} trials: {counts}" if trials else f"{indent}no trials yet"
    shown = trials if everything else _best(trials, node["mode"])[:_BEST]
    if not shown:
        return
    names = list(dict.fromkeys(name for one in shown for name in one["params"]))
    rows: list[list[object]] = [["trial", "score", "step", "status", *names, ""]]
    for one in shown:
        why = one["error"] or ("" if one["how"] == one["status"] else one["how"])
        values = [one["params"].get(name) for name in names]
        rows.append([one["number"], one["score"], one["step"], one["status"], *values, short(why, 60) if why else ""])
    yield table(rows, indent)
    if len(shown) < len(trials):
        yield f"{indent}… {len(trials) - len(shown)} more (--all)"


def _best(trials: list[Facts], mode: str) -> list[Facts]:
    """Return trials with the best first: completed ones, then the furthest, by score; those without one last."""
    sign = -1.0 if mode == "max" else 1.0

    def key(one: Facts) -> tuple[object, ...]:
        score = one["score"]
        known = score is not None and score == score and one["status"] != "failed"
        completed = one["status"] == "completed"
        return (not known, not completed, 0 if completed else -one["step"], sign * score if known else 0.0, one["number"])

    return sorted(trials, key=key)


# ---------------------------------------------------------------- logs


@click.command()
@click.argument("reference", metavar="RUN[/trial[N]]")
@click.option("-f", "--follow", is_flag=True, help="Go on as long as the run is alive.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Only the last lines of each file.")
@flags
def logs(face: Face, reference: str, follow: bool, lines: int | None) -> None:
    """Print what a run and its trials wrote.

    That is stdout and stderr of child processes, ctx.log(…), and the tracebacks of failed attempts.
    """
    from sweep.store.runs import find_run

    with face.open() as store:
        row = find_run(store, reference)
        found = _files(store, row)
        if face.json:
            data = [{"run": path, "file": name, "text": _tail(_read(place), lines)} for place, path, name in found]
            face.show(data, "")
            return
        if not found and not follow:
            face.say(f"{reference} wrote nothing")
        _print(found, lines, headed=len(found) > 1 or follow)
        if follow:
            _follow(store, row, {place: place.stat().st_size for place, _, _ in found})


def _files(store: Store, row: RunRow) -> list[tuple[Path, str, str]]:
    """Return the log files of a run and everything below it: file, path of the run, name."""
    from sweep.store.runs import descendants, path_of

    found: list[tuple[Path, str, str]] = []
    for _, one in descendants(store, row):
        directory = store.run_directory(one.id)
        if directory.is_dir():
            path = path_of(store, one)
            found += [(directory / name, path, name) for name in _LOGS if (directory / name).is_file()]
    return found


def _read(place: Path) -> str:
    return place.read_text(encoding="utf-8", errors="replace")


def _tail(text: str, lines: int | None) -> str:
    if lines is None:
        return text
    kept = text.splitlines(keepends=True)
    return "".join(kept[max(0, len(kept) - lines) :])


def _print(found: list[tuple[Path, str, str]], lines: int | None, *, headed: bool) -> None:
    for place, path, name in found:
        text = _tail(_read(place), lines)
        if headed and text:
            click.echo(f"--- {path} {name}")
        click.echo(text, nl=bool(text) and not text.endswith("\n"))


def _follow(store: Store, row: RunRow, seen: dict[Path, int]) -> None:
    """Print what is added to the files until nobody works on the run any more."""
    alive = True
    while alive:
        alive = store.is_live(row.root_id)
        for place, path, name in _files(store, row):
            size = place.stat().st_size
            if size > seen.get(place, 0):
                with place.open("rb") as file:
                    file.seek(seen.get(place, 0))
                    click.echo(f"--- {path} {name}")
                    click.echo(file.read().decode("utf-8", "replace"), nl=False)
                seen[place] = size
        if alive:
            time.sleep(_EVERY)
