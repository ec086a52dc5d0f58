"""How a run is entered: by FILE:NAME imported, by a script executed again, or by a notebook's cell."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from sweep.cli.budgets import read_budget
from sweep.cli.face import Face, environment, short
from sweep.errors import ConfigError, SweepError

if TYPE_CHECKING:
    from sweep.cli.targets import Target
    from sweep.pipeline.request import Request
    from sweep.store.runs import RunRow

__all__ = ["Options", "rerun_trial", "resume_run", "run_file"]

Resume = Literal["auto", "never", "must"]


@final
@dataclass(frozen=True, slots=True)
class Options:
    """How ``sweep run`` was asked to run; kept with the run, so that a resume runs it alike."""

    workers: int | None = None
    budget: str | None = None
    seed: int | None = None
    smoke: bool = False
    env: str | None = None


# ---------------------------------------------------------------- run


def run_file(
    face: Face, reference: str, values: Sequence[str], options: Options, *, resume: Resume, request: Request | None = None,
    kept: Mapping[str, object] | None = None,
) -> None:  # fmt: skip
    """Import ``FILE[:NAME]`` and run it; print its result, and end with 1 if the run failed.

    Args:
        face: The common flags.
        reference: ``FILE[:NAME]``.
        values: The words after it.
        options: The flags of ``sweep run``.
        resume: Whether to go on with the latest run of that name.
        request: What a resume or a rerun asks of the run.
        kept: How the run is said to have been entered; None = by this file and these words.

    Raises:
        SweepError: What running it raises.
    """
    from sweep.cli.targets import check_given, load_target

    with _process(face):
        target = load_target(reference, values, options.env)
        check_given(target)
        _set_options(target, options)
        entry = {
            "kind": "file", "file": target.file, "name": target.name, "args": list(values), "cwd": str(Path.cwd()),
            "options": {key: value for key, value in asdict(options).items() if value}, "places": target.places,
        }  # fmt: skip
        text = None if request is None else request.to_text()
        with environment(SWEEP_ENTRY=json.dumps(kept or entry), SWEEP_RESUME=text):
            result = _run(face, target, options, resume)
    _print_result(face, result)
    _end(result)


@contextlib.contextmanager
def _process(face: Face) -> Iterator[None]:
    """Make this process ready to run the user's code: signals, tracing, and with ``--json`` stdout for us alone."""
    from sweep.tracker.stream import listening
    from sweep.tracker.tracing import trace, trace_as_json

    before = _on_sigterm(lambda *_: sys.exit(143))
    try:
        with (
            listening(trace_as_json if face.json else trace) if face.debug else contextlib.nullcontext(),
            contextlib.redirect_stdout(sys.stderr) if face.json else contextlib.nullcontext(),
        ):
            yield
    finally:
        _on_sigterm(before)


def _on_sigterm(handler: Any) -> object:
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not the main thread: signals are somebody else's
        return signal.SIG_DFL


def _set_options(target: Target, options: Options) -> None:
    """Hand options to what they mean something to.

    Raises:
        ConfigError: An option that means nothing here.
    """
    is_sweep = target.kind == "sweep"
    if options.workers is not None and not is_sweep:
        raise ConfigError(f"--workers: {target.name} is no sweep, but a {target.kind}; give its sweeps workers=")
    if options.smoke and not is_sweep:
        raise ConfigError(f"--smoke: {target.name} is no sweep, but a {target.kind}")
    if options.budget is not None and target.kind == "pipeline":
        raise ConfigError(f"--budget: {target.name} is a pipeline, which has no trials to limit")
    if options.workers is not None:
        target.what.workers = options.workers
    if options.seed is not None:
        if not hasattr(target.what, "seed"):
            raise ConfigError(f"--seed: {target.name} is a {target.kind} without a field 'seed'; give it one")
        target.what.seed = options.seed


def _run(face: Face, target: Target, options: Options, resume: Resume) -> Any:
    store = face.path if face.store else None
    budget = None if options.budget is None else read_budget(options.budget)
    if target.kind == "pipeline":
        return target.what.run(target.inputs, name=target.name, store=store, resume=resume)
    if target.kind == "sweep":
        return target.what.run(budget, resume=resume, store=store, smoke=options.smoke)
    return target.what.run(budget=budget, resume=resume, store=store, **target.inputs)


def _print_result(face: Face, result: Any) -> None:
    if hasattr(result, "summary_data"):
        text = result.summary() if hasattr(result, "summary") else _lines(result.path, result.state._asdict())
        face.show(result.summary_data(), text)
    else:
        values = result._asdict()
        face.show({"status": "completed", "state": values}, _lines("completed", values))


def _lines(head: str, values: Mapping[str, object]) -> str:
    return "\n".join([head, *(f"  {name} = {short(repr(value), 100)}" for name, value in values.items())])


def _end(result: object) -> None:
    """End with 1 after a sweep that ended by failures, or in which no trial completed."""
    from sweep.experiments.sweepresult import SweepResult

    if not isinstance(result, SweepResult):
        return
    counted = any(str(trial.status) == "completed" for trial in result.trials)
    if str(result.status) == "failed" or not counted:
        sys.exit(1)


# ---------------------------------------------------------------- resume


def resume_run(
    face: Face, reference: str, *, dry_run: bool, redo: Sequence[str], allow_changed: bool, workers: int | None, budget: str | None
) -> None:
    """Enter a run again by its stored entry, and go on with it or print its plan.

    Raises:
        RunNotFound: There is no such run.
        RunLocked: It is running.
        SweepError: It cannot be entered from here.
    """
    from sweep.pipeline.request import Planned, Request

    row, entry = _root_of(face, reference, redo)
    request = Request(row.id, str(face.path), tuple(redo), allow_changed, dry_run, row.name)
    if str(row.status) == "completed" and not (redo or budget):
        more = " (a larger --budget extends it)" if row.level == "sweep" else ""
        face.say(f"{row.segment} has finished already; nothing to do{more}")
        face.show({"run_id": row.id, "path": row.segment, "status": str(row.status), "score": row.score}, "")
        return
    try:
        _enter(face, row, entry, request, workers, budget)
    except* Planned as group:
        planned: BaseException = group
        while isinstance(planned, BaseExceptionGroup):
            planned = planned.exceptions[0]
        if isinstance(planned, Planned):
            face.show(planned.plan.to_data(), str(planned.plan))


def _root_of(face: Face, reference: str, redo: Sequence[str] = ()) -> tuple[RunRow, dict[str, Any]]:
    """Return the root of the run meant, and how it was entered."""
    from sweep.pipeline.redo import find_stages
    from sweep.store.runs import find_run, read_run

    with face.open() as store:
        row = find_run(store, reference)
        if row.parent_id:
            row = read_run(store, row.root_id)
            face.say(f"{reference} is part of {row.segment}, which goes on as a whole")
        find_stages(store, row, redo)
    return row, row.data("entry") or {}


def _enter(
    face: Face, row: RunRow, entry: Mapping[str, Any], request: Request, workers: int | None = None,
    budget: str | None = None, kept: Mapping[str, object] | None = None,
) -> None:  # fmt: skip
    """Run the program that started a run once more; ``kept`` says of a new run how it was entered."""
    kind = entry.get("kind")
    here = Face(str(face.path), face.json, face.quiet, face.debug)
    if kind == "file":
        given = {**entry.get("options", {}), "budget": budget}
        options = Options(**{**given, **({} if workers is None else {"workers": workers})})
        with _directory(entry["cwd"]):
            reference = f"{entry['file']}:{entry['name']}"
            how: Resume = "auto" if kept else "must"
            run_file(here, reference, entry["args"], options, resume=how, request=request, kept=kept)
    elif kind == "script":
        if workers is not None or budget is not None:
            raise ConfigError("--workers and --budget: this run was started by a script, which sets them itself")
        with environment(SWEEP_ENTRY=None if kept is None else json.dumps(kept)):
            _execute(here, row, entry, request)
    elif kind == "rerun":
        raise SweepError(f"run {row.id} is a rerun of one trial; run it again: sweep rerun {entry['of']}")
    else:
        raise ConfigError(f"run {row.id} ({row.segment}) was started in a notebook: run the cell again, it goes on by itself")


@contextlib.contextmanager
def _directory(path: str) -> Iterator[None]:
    before = os.getcwd()
    try:
        os.chdir(path)
    except OSError as error:
        raise SweepError(f"the run was started in {path}, which cannot be entered: {error.strerror}") from error
    try:
        yield
    finally:
        os.chdir(before)


def _execute(face: Face, row: RunRow, entry: Mapping[str, Any], request: Request) -> None:
    """Execute a script again, in this process, with the run named in the environment."""
    script = Path(entry["script"])
    if not script.is_file():
        raise SweepError(f"run {row.id} was started by {script}, which is not there any more")
    arguments, path = sys.argv, list(sys.path)
    with _directory(entry["cwd"]), _process(face), environment(SWEEP_RESUME=request.to_text(), SWEEP_STORE=request.store):
        try:
            sys.argv = [str(script), *entry["argv"]]
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
        finally:
            sys.argv, sys.path[:] = arguments, path
    _check_reached(face, row, request)


def _check_reached(face: Face, row: RunRow, request: Request) -> None:
    """Tell whether the script came to the run at all."""
    from sweep.store.runs import read_run

    with face.open() as store:
        now = read_run(store, row.id)
    if request.dry_run or request.trial is not None or now.epoch == row.epoch:
        raise SweepError(f"the script ended without coming to {row.segment!r} (run {row.id}); does it still start it?")
    face.show({"run_id": row.id, "path": now.segment, "status": str(now.status), "score": now.score}, "")


# ---------------------------------------------------------------- rerun


def rerun_trial(face: Face, reference: str) -> None:
    """Run one trial alone.

    Raises:
        ConfigError: The run is no trial of a sweep that was run by itself.
    """
    from sweep.pipeline.request import Request, Reran
    from sweep.store.runs import TRIAL, find_run, path_of, read_run

    with face.open() as store:
        row = find_run(store, reference)
        if row.level != TRIAL:
            article = "an" if row.level[0] in "aeiou" else "a"
            raise ConfigError(f"{reference} is {article} {row.level}, no trial; name one, for example {row.segment}/trial[0]")
        parent, path = read_run(store, row.parent_id), path_of(store, row)
    if parent.parent_id:
        raise ConfigError(f"{path}: only trials of a sweep that was run by itself can be run alone")
    entry = parent.data("entry") or {}
    request = Request(parent.id, str(face.path), name=parent.name, trial=row.number)
    try:
        _enter(face, parent, entry, request, kept={"kind": "rerun", "of": path})
    except Reran as done:
        result = done.result
        face.show(result.summary_data(), f"{result.path} (run {result.run_id}): score {short(repr(result.value), 100)}")
