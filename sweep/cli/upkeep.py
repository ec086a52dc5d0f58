"""Commands around the store and the config: gc, config why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from sweep.cli.face import Face, flags, value_sources
from sweep.errors import ConfigError

if TYPE_CHECKING:
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

    FILE[:NAME] names a Scope or MultiScope of a file, or an experiment with what it is given; of a RUN, the layers kept
    with it, and the fields it was given.
    """
    from sweep.cli.targets import parse_scope
    from sweep.config.layers import explain

    if ".py" not in target:
        _why_of_run(face, key, target, values)
        return
    scope = _scope(target)
    if scope is None:
        _show_layers(face, key, _given_layers(target, values, env))
        return
    parse_scope(scope, values, env)
    steps = scope.why(key)
    data = [{"key": s.key, "kind": s.kind, "source": s.source, "value": s.value, "applied": s.applied} for s in steps]
    face.show({"key": key, "layers": data}, lambda: explain(key, scope))


def _given_layers(target: str, values: tuple[str, ...], env: str | None) -> list[dict[str, Any]]:
    """Return the layers of what an experiment of a file would be given."""
    from sweep.cli.targets import load_target

    given = load_target(target, values, env).what._with_config()._given_kept
    return [layer.as_data() for layer in given.layers if layer.writes]


def _why_of_run(face: Face, key: str, reference: str, values: tuple[str, ...]) -> None:
    from sweep.errors import UnknownName
    from sweep.store.runs import find_run, path_of

    if values:
        raise ConfigError("key=value goes with FILE[:NAME]; a run has its values already")
    with face.open() as store:
        row = find_run(store, reference)
        path = path_of(store, row)
        layers = _kept_layers(store, row.id)
    params, entry = row.data("params") or {}, row.data("entry") or {}
    try:
        _show_layers(face, key, layers)
        return
    except UnknownName as error:
        head, places = key.partition(".")[0], entry.get("places", {})
        if head not in places and key not in params:
            known = {*error.known, *params, *places}
            raise UnknownName("key", key, known, f"fields, inputs and config of {path}") from error
    head = key if key in params else head
    said = places.get(head, [f"{row.level} {path}"])
    value = f" = {params[head]!r}" if head in params else ""
    data = {"key": head, "value": params.get(head), "source": said[-1], "sources": said}
    face.show(data, "\n  ".join([f"{head}{value}", *said]))


def _kept_layers(store: Store, run_id: int) -> list[dict[str, Any]]:
    """Return the layers that the config stages of a run have kept."""
    rows = store.rows("SELECT value FROM journal WHERE run_id=? AND kind='config' ORDER BY key", (run_id,))
    return [layer for (text,) in rows for layer in json.loads(text)]


def _show_layers(face: Face, key: str, layers: list[dict[str, Any]]) -> None:
    from sweep.config.layers import explain

    text = explain(key, layers)
    face.show({"key": key, "layers": text.splitlines()[1:]}, text)


def _scope(target: str) -> Any:
    """Return the Scope or MultiScope meant by ``FILE[:NAME]``, or None where it is an experiment."""
    from sweep.cli.faults import NotThere
    from sweep.cli.targets import module_of, split
    from sweep.config import MultiScope, Scope
    from sweep.errors import did_you_mean

    file, name = split(target)
    module = module_of(file)
    scopes = {key: value for key, value in vars(module).items() if isinstance(value, Scope | MultiScope)}
    if name in scopes:
        return scopes[name]
    if hasattr(getattr(module, name, None), "_with_config"):
        return None
    if name:
        there = did_you_mean(name, scopes) or f"; scopes: {', '.join(scopes) or 'none'}"
        raise NotThere(f"{file.name} has no scope {name!r}{there}")
    several: list[Scope | MultiScope] = [value for value in scopes.values() if isinstance(value, MultiScope)]
    several = several or list(scopes.values())
    if len(several) != 1:
        raise ConfigError(f"{file.name} has {len(several)} scopes; name one: {file.name}:{'|'.join(scopes) or 'NAME'}")
    return several[0]
