"""Commands around the store and the config: gc, config why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import click

from sweep.cli.face import Face, flags, value_sources
from sweep.errors import ConfigError

if TYPE_CHECKING:
    from sweep.config import MultiScope, Scope
    from sweep.store.writer import Store

__all__ = ["config", "gc"]


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--runs", "older", metavar="AGE", help="Also delete runs that ended more than AGE ago (30d, 12h).")
@flags
def gc(face: Face, dry_run: bool, older: str | None) -> None:
    """Remove what nobody needs any more.

    That is: checkpoints no trial would start from, blobs nobody refers to, files of deleted runs; with --runs also old
    runs. Live runs are left alone.
    """
    from sweep.cli.budgets import read_span
    from sweep.store.collect import collect_blobs, collect_files, delete_runs, finished_before

    span = None if older is None else read_span(older)
    with face.open(write=not dry_run) as store:
        from sweep.clock import current_clock

        old = [] if span is None else finished_before(store, current_clock().wall() - span)
        if not dry_run:
            delete_runs(store, old)
        checkpoints = _checkpoints(store, dry_run)
        blobs, files = collect_blobs(store, dry_run=dry_run), collect_files(store, dry_run=dry_run)
    size = blobs.size + files.size
    word = "would go" if dry_run else "gone"
    lines = [f"{word}: {len(old)} runs" + (f" ({', '.join(row.segment for row in old)})" if old else "")] if older else []
    lines.append(f"{word}: {checkpoints} checkpoints, {blobs.count} blobs, files of {files.count} runs; {_bytes(size)}")
    data = {
        "dry_run": dry_run, "runs": [row.id for row in old], "checkpoints": checkpoints, "blobs": blobs.count,
        "files": files.count, "bytes": size,
    }  # fmt: skip
    face.show(data, "\n".join(lines))


def _checkpoints(store: Store, dry_run: bool) -> int:
    """Drop checkpoints that no trial of a sweep will start from, of sweeps that nobody works on."""
    from sweep.experiments.checkpoints import orphans
    from sweep.store.journal import Journal
    from sweep.store.runs import descendants, roots

    found = 0
    for root in roots(store):
        if store.is_live(root.id):
            continue
        for _, row in descendants(store, root):
            if row.level != "sweep":
                continue
            for run_id, key in orphans(store, row):
                found += 1
                if not dry_run:
                    Journal(store, run_id, root.id, fresh=True).discard(key)
    if not dry_run:
        store.commit()
    return found


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return ""


@click.group()
def config() -> None:
    """Ask about configuration."""


@config.command()
@click.argument("key", metavar="KEY")
@click.argument("target", metavar="FILE[:NAME]|RUN")
@click.argument("values", metavar="[KEY=VALUE]...", nargs=-1)
@value_sources
@flags
def why(face: Face, key: str, target: str, values: tuple[str, ...], env: str | None) -> None:
    """Say why KEY has its value, layer by layer.

    FILE[:NAME] names a Scope or MultiScope of a file, or something to run with what it is given; of a RUN, the layers
    kept with it, and the fields it was given.
    """
    from sweep.cli.targets import parse_scope
    from sweep.config.layers import explain

    if ".py" not in target:
        if values:
            raise ConfigError("key=value goes with FILE[:NAME]; a run has its values already")
        _show(face, key, _of_run(face, target))
        return
    scope = _scope(target)
    if scope is None:
        _show(face, key, _of_target(target, values, env))
        return
    parse_scope(scope, values, env)
    steps = scope.why(key)
    data = [{"key": s.key, "kind": s.kind, "source": s.source, "value": s.value, "applied": s.applied} for s in steps]
    face.show({"key": key, "layers": data}, lambda: explain(key, scope))


@final
@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of where values are from."""

    name: str  # of what has them, for messages
    code: str  # the place of a value that nobody gave
    layers: list[dict[str, Any]]
    values: Mapping[str, object]
    places: Mapping[str, list[str]]  # of values that no layer has


def _of_target(target: str, values: tuple[str, ...], env: str | None) -> _Known:
    from sweep.cli.targets import load_target

    loaded = load_target(target, values, env)
    if loaded.kind == "pipeline":
        return _Known(f"inputs of {loaded.name}", "", [], loaded.inputs, loaded.places)
    held = loaded.what._with_config()
    layers = [layer.as_data() for layer in held._given_kept.layers if layer.writes]
    known = {**held.fields, **loaded.inputs}
    return _Known(f"fields and config of {loaded.name}", f"the code of {loaded.name}", layers, known, loaded.places)


def _of_run(face: Face, reference: str) -> _Known:
    from sweep.store.runs import find_run, path_of

    query = "SELECT value FROM journal WHERE run_id=? AND kind='config' ORDER BY key"
    with face.open() as store:
        row = find_run(store, reference)
        path = path_of(store, row)
        layers = [layer for (text,) in store.rows(query, (row.id,)) for layer in json.loads(text)]
    places = (row.data("entry") or {}).get("places", {})
    return _Known(f"fields, inputs and config of {path}", f"{row.level} {path}", layers, row.data("params") or {}, places)


def _show(face: Face, key: str, known: _Known) -> None:
    """Print the history of a key; of one that no layer has, its value and its places."""
    from sweep.config.layers import explain
    from sweep.errors import UnknownName

    try:
        text = explain(key, known.layers)
    except UnknownName as error:
        head = key if key in known.values else key.partition(".")[0]
        if head not in known.places and key not in known.values:
            raise UnknownName("key", key, {*error.known, *known.values, *known.places}, known.name) from error
        said = known.places.get(head, [known.code])
        value = f" = {known.values[head]!r}" if head in known.values else ""
        data = {"key": head, "value": known.values.get(head), "source": said[-1], "sources": said}
        face.show(data, "\n  ".join([f"{head}{value}", *said]))
    else:
        face.show({"key": key, "layers": text.splitlines()[1:]}, text)


def _scope(target: str) -> Scope | MultiScope | None:
    """Return the Scope or MultiScope meant by ``FILE[:NAME]``, or None where it is something to run."""
    from sweep.cli.faults import NotThere
    from sweep.cli.targets import module_of, split
    from sweep.config import MultiScope, Scope
    from sweep.errors import did_you_mean

    file, name = split(target)
    module = module_of(file)
    scopes = {key: value for key, value in vars(module).items() if isinstance(value, Scope | MultiScope)}
    if name in scopes:
        return scopes[name]
    if not scopes or hasattr(module, name.partition(".")[0]):
        return None
    if name:
        there = did_you_mean(name, scopes) or f"; scopes: {', '.join(scopes)}"
        raise NotThere(f"{file.name} has no scope {name!r}{there}")
    found: list[Scope | MultiScope] = [value for value in scopes.values() if isinstance(value, MultiScope)]
    found = found or list(scopes.values())
    if len(found) != 1:
        raise ConfigError(f"{file.name} has {len(found)} scopes; name one: {file.name}:{'|'.join(scopes)}")
    return found[0]
