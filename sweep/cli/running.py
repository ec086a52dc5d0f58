"""Commands that run something: run, resume, rerun, stop, validate."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import click

from sweep.cli.face import Face, flags, value_sources

if TYPE_CHECKING:
    from sweep.store.runs import RunRow
    from sweep.store.writer import Store

__all__ = ["rerun", "resume", "run", "stop", "validate"]

_REDO = "Run this stage again although it has finished: a name, or a path such as tune/Tune/trial[3]/train."
_LIMITS = "Trials (40), a time (15m), or limits by name (trials=40,seconds=600)."


@click.command()
@click.argument("target", metavar="FILE[:NAME]")
@click.argument("values", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--workers", type=click.IntRange(min=1), help="Trials at once.")
@click.option("--budget", metavar="LIMIT", help=_LIMITS)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the sweep; drawn and kept if not given.")
@click.option("--new", is_flag=True, help="Begin a new run, even where one could go on.")
@click.option("--smoke", is_flag=True, help="One trial, one step: does it work at all?")
@value_sources
@flags
def run(
    face: Face, target: str, values: tuple[str, ...], workers: int | None, budget: str | None, seed: int | None, new: bool,
    smoke: bool, env: str | None,
) -> None:  # fmt: skip
    """Run what a file defines, or go on where it stopped.

    NAME is a Pipeline, an Experiment, a class of one, or a function that returns one; without it, the only one there
    is. KEY=VALUE sets a field, a constructor argument or an input, dotted keys a part of one, or a field of a run
    inside; with a scope of configuration, words are the scope's. Of a sweep, a range searches a parameter and a plain
    value holds it. Values are literals, never evaluated.

    \b
    sweep run train.py:sweep --budget 40 --workers 4 'lr=log(1e-5,1e-1)' depth=50,101
    sweep run study.py exploration.lr=0.1 --config base.yaml
    sweep run pipeline.py n=10 data=%12%
    """
    from sweep.cli.entries import Options, run_file

    run_file(face, target, list(values), Options(workers, budget, seed, smoke, env), resume="never" if new else "auto")


@click.command()
@click.argument("reference", metavar="RUN")
@click.option("--dry-run", is_flag=True, help="Print the plan: what is restored, what runs again; change nothing.")
@click.option("--redo", metavar="STAGE", multiple=True, help=_REDO)
@click.option("--allow-changed", is_flag=True, help="Go on although structure or contracts have changed.")
@click.option("--workers", type=click.IntRange(min=1), help="Trials at once.")
@click.option("--budget", metavar="LIMIT", help=f"Another budget; a larger one extends a finished sweep. {_LIMITS}")
@flags
def resume(
    face: Face, reference: str, dry_run: bool, redo: tuple[str, ...], allow_changed: bool, workers: int | None,
    budget: str | None,
) -> None:  # fmt: skip
    """Go on with a run where it stopped.

    The file it came from is imported, or its script executed again; what is finished is restored, never repeated.
    """
    from sweep.cli.entries import resume_run

    resume_run(face, reference, dry_run=dry_run, redo=redo, allow_changed=allow_changed, workers=workers, budget=budget)


@click.command()
@click.argument("reference", metavar="RUN/trial[N]")
@flags
def rerun(face: Face, reference: str) -> None:
    """Run one trial again, alone, as a new run.

    With its parameters and its seed, and with the code as it is now; no scheduler cuts it short.
    """
    from sweep.cli.entries import rerun_trial

    rerun_trial(face, reference)


@click.command()
@click.argument("reference", metavar="RUN[/trial[N]]")
@flags
def stop(face: Face, reference: str) -> None:
    """Stop a live run, or one trial, in good order."""
    from sweep.store.runs import find_run, path_of

    with face.open(write=True) as store:
        row = find_run(store, reference)
        path = path_of(store, row)
        if not store.is_live(row.root_id):
            face.say(f"{path} is not running: {_standing(row)}")
            face.show({"run_id": row.id, "path": path, "requested": False}, "")
            return
        how = _ask(store, row)
    face.say(f"asked {path} to stop ({how})")
    face.show({"run_id": row.id, "path": path, "requested": True}, "")


def _standing(row: RunRow) -> str:
    from sweep.trial import Status

    status = Status.INTERRUPTED if row.status is Status.RUNNING else row.status
    return f"it is {status}" + ("" if status.ended else f"; go on with it: sweep resume {row.root_id}")


def _ask(store: Store, row: RunRow) -> str:
    """Write the request for a sweep or a trial; end the owner of any other run by SIGTERM."""
    from sweep.errors import SweepError
    from sweep.store.runs import TRIAL, read_run

    is_trial = row.level == TRIAL
    if is_trial or row.level == "sweep":
        where, value = (row.parent_id, str(row.number)) if is_trial else (row.id, "")
        query = "INSERT OR REPLACE INTO tag(run_id, name, value) VALUES (?,?,?)"
        store.add(query, (where, f"request:stop:{value or 'all'}", value))
        store.commit()
        return "it looks for requests once a second"
    root = read_run(store, row.root_id)
    owner, entry = root.data("owner") or {}, root.data("entry") or {}
    if entry.get("kind") == "notebook":
        raise SweepError(f"{root.segment} runs in a notebook: interrupt its cell")
    if owner.get("host") != os.uname().nodename:
        raise SweepError(f"{root.segment} is owned by {store.owner(root.id)}: stop it there")
    os.kill(int(owner["pid"]), signal.SIGTERM)
    return f"SIGTERM to {store.owner(root.id)}"


@click.command()
@click.argument("target", metavar="FILE[:NAME]")
@click.argument("values", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--strict", is_flag=True, help="What cannot be proved is an error, too.")
@value_sources
@flags
def validate(face: Face, target: str, values: tuple[str, ...], strict: bool, env: str | None) -> None:
    """Check that it fits together; nothing runs."""
    from sweep.cli.targets import find_targets, load_target, module_of, split
    from sweep.errors import SweepError

    file, name = split(target)
    kinds: dict[str, str] = {}
    lines: list[str] = []
    for one in [name] if name else list(find_targets(module_of(file))) or [""]:
        try:
            loaded = load_target(f"{file}:{one}" if one else target, values, env)
            loaded.what.check(strict=strict)
        except SweepError as error:
            if one:
                error.add_note(f"in {file.name}:{one}")
            raise
        kinds[one] = loaded.kind
        lines.append(f"{file.name}:{one} fits together ({loaded.kind})")
        if loaded.kind == "pipeline":
            lines += [f"  {line}" for line in loaded.what.plan().splitlines()]
    face.show({"valid": True, "targets": kinds}, "\n".join(lines))


