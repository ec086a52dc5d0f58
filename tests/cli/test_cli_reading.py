"""``ls``, ``show``, ``logs``, ``compare``, ``export``, ``stop``, ``gc``, ``config why``: what a store tells."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import time
from pathlib import Path

import click
import pytest
from cli_world import Cli, data

from sweep.cli.app import app
from sweep.cli.reading import _EVERY
from sweep.store.runs import find_run
from sweep.store.writer import Store


@pytest.fixture
def store(cli: Cli) -> Path:
    """Hold a store with a pipeline that failed, a sweep, a race, and an experiment."""
    Path("boom").touch()
    cli("run", "work.py:pipeline", "n=3", "-q", code=1)
    Path("boom").unlink()
    cli("run", "work.py:tune", "--budget", "4", "--seed", "1", "-q")
    cli("run", "work.py:race", "--budget", "9", "-q")
    cli("run", "work.py:Square", "n=5", "-q")
    return Path("sweep.db")


def test_ls_lists_runs_with_their_trials(cli: Cli, store: Path) -> None:
    found = data(cli("ls", "--json"))
    assert [(one["id"], one["path"], one["level"], one["status"]) for one in found] == [
        (1, "pipeline", "pipeline", "failed"),
        (2, "tune", "sweep", "completed"),
        (7, "race", "sweep", "completed"),
        (17, "Square", "experiment", "completed"),
    ]
    assert [(one["trials_done"], one["trials"]) for one in found] == [(0, 0), (4, 4), (9, 9), (0, 0)]
    lines = cli("ls").stdout.splitlines()
    assert lines[0].split() == ["id", "path", "level", "status", "score", "trials", "age"]
    assert re.match(r"2   tune\s+sweep\s+completed\s+[\d.]+\s+4/4", lines[2])


def test_a_run_whose_owner_is_gone_is_interrupted_and_one_that_is_held_is_running(cli: Cli, store: Path) -> None:
    with Store(store) as held:
        held.add("UPDATE run SET status='running' WHERE id IN (2, 7)", ())
        held.commit()
        held.own(7, "race")
        found = {one["path"]: one["status"] for one in data(cli("ls", "--json"))}
        assert (found["tune"], found["race"]) == ("interrupted", "running")
        assert "asked race to stop" in cli("stop", "race").stderr
        assert held.rows("SELECT run_id, value FROM tag WHERE name LIKE 'request:%'") == [(7, "")]
        assert "asked race/trial[2] to stop" in cli("stop", "race/trial[2]").stderr
        assert (7, "2") in held.rows("SELECT run_id, value FROM tag WHERE name LIKE 'request:%'")
        assert "RunLocked" in cli("resume", "race", "--dry-run", "--budget", "20", code=4).stderr
    assert "tune is not running: it is interrupted; go on with it: sweep resume 2" in cli("stop", "tune").stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["show", "tnue"], 3, "did you mean 'tune'?"),
        (["show", "99"], 3, "no run '99'"),
        (["show", "tune/trial[44]"], 3, "no run 'tune/trial[44]'"),
        (["ls", "--store", "nowhere.db"], 4, "there is no store nowhere.db; run something first"),
        (["ls", "--store", "work.py"], 4, "StoreCorrupt"),
        (["compare", "tune"], 2, "at least two runs"),
        (["gc", "--runs", "soon"], 2, "30d"),
        (["config", "why", "lr", "work.py"], 2, "work.py has several things to run; name one"),
        (["config", "why", "lr", "work.py:Squar"], 3, "did you mean 'Square'?"),
        (["config", "why", "m", "work.py:pipeline", "n=1"], 2, "unknown key 'm' (inputs of pipeline); there are: n"),
        (["config", "why", "lr", "Square"], 2, "unknown key 'lr' (fields, inputs and config of Square); there are: n, tag"),
        (["export", "tune", "-o", "nowhere/out.csv"], 2, "-o nowhere/out.csv: it cannot be written"),
    ],
)
def test_what_is_not_there_is_named(cli: Cli, store: Path, words: list[str], code: int, message: str) -> None:
    result = cli(*words, code=code)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_show_tells_how_each_trial_ended(cli: Cli, store: Path) -> None:
    found = data(cli("show", "race", "--json"))
    trials = found["list"]
    assert [one["number"] for one in trials] == list(range(9))
    with Store(store, readonly=True) as read:
        promoted = read.rows("SELECT json_extract(value, '$.number') FROM journal WHERE run_id=7 AND kind='promoted'")
    for one in trials:
        assert one["promotions"] == sum(number == one["number"] for (number,) in promoted)
        assert (f"promoted {one['promotions']}x" in one["how"]) == bool(one["promotions"])
    assert {one["status"] for one in trials} == {"completed", "stopped"}
    text = cli("show", "race").stdout
    best = min((one for one in trials if one["status"] == "completed"), key=lambda one: one["score"])
    assert text.splitlines()[3].split()[0] == str(best["number"])
    assert "unpromoted" in text


def test_show_tells_of_failed_lost_and_exploited_trials_and_of_paused_ones(cli: Cli, store: Path) -> None:
    changes = [
        ("UPDATE run SET status='failed', reason='lost', error='the host died' WHERE parent_id=2 AND number=0", ()),
        ("UPDATE run SET status='stopped', reason='exploited' WHERE parent_id=2 AND number=1", ()),
        ("UPDATE run SET status='paused', reason=NULL WHERE parent_id=2 AND number=2", ()),
        (
            "INSERT INTO journal(run_id, key, kind, value) VALUES (2, '~999999999', 'exploited', ?)",
            (json.dumps({"number": 1, "new": {"number": 3, "parent": 1, "start_from": 0}}),),
        ),
    ]
    with Store(store) as write:
        for query, values in changes:
            write.add(query, values)
    how = [one["how"] for one in data(cli("show", "tune", "--json"))["list"]]
    assert how == [
        "failed: lost", "exploited", "paused", "completed, in the place of trial[1] with the checkpoint of trial[0]",
    ]  # fmt: skip
    assert "the host died" in cli("show", "tune").stdout


def test_show_of_a_trial_and_of_a_pipeline(cli: Cli, store: Path) -> None:
    text = cli("show", "tune/trial[1]").stdout
    assert "lr = 0." in text
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["1", "2", "3"]
    found = data(cli("show", "pipeline", "--json"))
    assert [(one["key"], one["kind"]) for one in found["stages"]] == [("load", "kept")]
    assert found["error"] == "ValueError: the reactor is hot"
    assert "load  kept" in cli("show", "1").stdout


def test_show_a_tree_of_runs(cli: Cli, work: Path) -> None:
    (work / "nested.py").write_text(
        "from sweep import Experiment, Pipeline\nfrom work import tune\n"
        "class Outer(Experiment):\n    def pipeline(self):\n"
        "        return Pipeline().stage('search', lambda: tune.run(budget=3)).through(best=dict)\n"
    )
    cli("run", "nested.py:Outer")
    found = data(cli("show", "Outer", "--json"))
    assert [child["path"] for child in found["children"]] == ["Outer/search/tune"]
    assert (found["trials_done"], found["trials"]) == (3, 3), "rolled up"
    assert [one["path"] for one in data(cli("ls", "--all", "--json"))] == ["Outer", "Outer/search/tune"]
    assert data(cli("show", "Outer/search/tune/trial[2]", "--json"))["level"] == "trial"


def test_logs_are_those_of_the_run_and_all_below(cli: Cli, store: Path) -> None:
    assert cli("logs", "tune/trial[0]").stdout == "step 1\nstep 2\nstep 3\n"
    assert cli("logs", "tune/trial[0]", "-n", "1").stdout == "step 3\n"
    assert cli("logs", "tune/trial[0]", "-n", "0").stdout == ""
    whole = cli("logs", "tune").stdout
    assert [line for line in whole.splitlines() if line.startswith("---")] == [f"--- tune/trial[{n}] log.txt" for n in range(4)]
    assert [one["file"] for one in data(cli("logs", "tune", "--json"))] == ["log.txt"] * 4
    assert "wrote nothing" in cli("logs", "Square").stderr


def test_logs_follow_a_live_run_until_it_ends(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Store(store)
    held.own(2, "tune")
    log = held.run_directory(3) / "log.txt"
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        with log.open("a") as file:
            file.write(f"more {len(waits)}\n")
        if len(waits) == 2:
            held.disown(2)

    monkeypatch.setattr(time, "sleep", sleep)
    lines = cli("logs", "tune/trial[0]", "-f").stdout.splitlines()
    held.close()
    assert [line for line in lines if not line.startswith("---")] == ["step 1", "step 2", "step 3", "more 1", "more 2"]
    assert waits == [_EVERY, _EVERY]


# ---------------------------------------------------------------- compare, export


def test_compare_shows_what_differs(cli: Cli, store: Path) -> None:
    cli("run", "work.py:tune", "--budget", "2", "--seed", "2", "mode=max", "-q")
    found = data(cli("compare", "tune#1", "tune#2", "--json"))
    assert found["runs"] == ["tune", "tune#2"]
    assert found["facts"]["mode"] == ["min", "max"]
    assert found["facts"]["seed"] == [1, 2]
    assert found["facts"]["trials"] == [4, 2]
    assert "objective" not in found["facts"]
    assert "objective" in data(cli("compare", "tune#1", "tune#2", "--json", "--all"))["facts"]
    assert "best.lr" in cli("compare", "2", "race").stdout


def test_export_in_every_format_says_the_same(cli: Cli, store: Path, work: Path) -> None:
    trials = data(cli("show", "tune", "--json"))["list"]
    table = list(csv.DictReader(io.StringIO(cli("export", "tune").stdout)))
    document = data(cli("export", "tune", "--format", "json"))
    lines = [json.loads(line) for line in cli("export", "tune", "--format", "jsonl").stdout.splitlines()]
    assert document == lines
    assert [float(row["param.lr"]) for row in table] == [one["params"]["lr"] for one in trials]
    assert [float(row["metric.loss"]) for row in table] == [one["score"] for one in document]
    assert [one["history"][-1]["value"] for one in document] == [one["score"] for one in trials]
    cli("export", "tune", "-o", "out.jsonl")
    assert [json.loads(line) for line in (work / "out.jsonl").read_text().splitlines()] == lines
    long = list(csv.DictReader(io.StringIO(cli("export", "tune", "--metrics").stdout)))
    assert [(row["trial"], row["step"]) for row in long] == [(str(t), str(s)) for t in range(4) for s in (1, 2, 3)]


def test_export_says_when_a_stopped_trial_ended(cli: Cli, store: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("export", "race").stdout)))
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert len(stopped) >= 6, "paused at a rung, never promoted"
    sweep = data(cli("show", "race", "--json"))
    assert all(sweep["started"] < float(row["started"]) <= float(row["ended"]) <= sweep["ended"] for row in rows)


def test_export_of_a_run_without_trials_is_a_row_of_the_same_columns(cli: Cli, store: Path) -> None:
    (row,) = csv.DictReader(io.StringIO(cli("export", "Square").stdout))
    (trial, *_) = csv.DictReader(io.StringIO(cli("export", "tune").stdout))
    assert {name for name in row if not name.startswith("param.")} <= set(trial)
    assert (row["sweep"], row["status"], row["number"], row["param.n"]) == ("Square", "completed", "", "5")
    assert float(row["ended"]) >= float(row["started"])
    with Store(store) as write:
        write.add("DELETE FROM run WHERE parent_id=2", ())
    result = cli("export", "tune")
    assert (result.stdout, "tune has no trials yet" in result.stderr) == ("", True)


def test_json_has_no_nan(cli: Cli, store: Path) -> None:
    with Store(store) as write:
        write.add("UPDATE run SET score=? WHERE id=2", (math.inf,))
    assert data(cli("ls", "--json"))[1]["score"] is None


# ---------------------------------------------------------------- gc


def test_gc_removes_what_nobody_needs_and_a_dry_run_nothing(cli: Cli, store: Path) -> None:
    with Store(store) as write:
        blobs = write.blob_directory(2)
        from sweep.store.blobs import BlobStore

        loose = BlobStore(blobs).put(b"nobody needs this", ".bin")
        kept = BlobStore(blobs).put(b"somebody needs this", ".bin")
        write.add("INSERT INTO blob(digest, run_id, key) VALUES (?, 2, 'x')", (kept,))
        gone = write.run_directory(999)
        gone.mkdir(parents=True)
        (gone / "stdout.log").write_text("old")
        write.commit()
        checkpoints = write.rows("SELECT count(*) FROM journal WHERE kind='checkpoint'")[0][0]
    plan = data(cli("gc", "--dry-run", "--json"))
    assert (plan["blobs"], plan["files"], plan["bytes"]) == (1, 1, len(b"nobody needs this") + 3)
    assert (blobs / loose[:2] / loose[2:]).exists()
    assert gone.exists()
    assert data(cli("gc", "--json")) == {**plan, "dry_run": False}
    assert not (blobs / loose[:2] / loose[2:]).exists()
    assert (blobs / kept[:2] / kept[2:]).exists()
    assert not gone.exists()
    with Store(store) as read:
        assert read.rows("SELECT count(*) FROM journal WHERE kind='checkpoint'")[0][0] == checkpoints - plan["checkpoints"]
    assert data(cli("gc", "--json"))["bytes"] == 0


def test_gc_keeps_the_checkpoints_of_the_best_three(cli: Cli, store: Path) -> None:
    cli("gc")
    best = sorted(data(cli("show", "race", "--json"))["list"], key=lambda one: one["score"])[:3]
    with Store(store) as read:
        query = "SELECT DISTINCT j.run_id FROM journal j JOIN run r ON r.id=j.run_id WHERE r.parent_id=7 AND kind=?"
        rows = read.rows(query, ("checkpoint",))
    assert {run_id for (run_id,) in rows} == {one["id"] for one in best}


def test_gc_deletes_old_runs_on_request_and_no_live_or_unfinished_one(cli: Cli, store: Path) -> None:
    with Store(store) as write:
        write.add("UPDATE run SET ended=ended-100000 WHERE parent_id=0", ())
        write.add("UPDATE run SET status='interrupted' WHERE id=7", ())
    assert data(cli("gc", "--runs", "1d", "--dry-run", "--json"))["runs"] == [1, 2, 17]
    assert len(data(cli("ls", "--json"))) == 4
    cli("gc", "--runs", "1d")
    assert [one["path"] for one in data(cli("ls", "--json"))] == ["race"]
    with Store(store) as read:
        for table in ("metric", "journal", "blob"):
            orphans = f"SELECT count(*) FROM {table} WHERE run_id NOT IN (SELECT id FROM run)"  # noqa: S608  # our tables
            assert read.rows(orphans) == [(0,)]
        assert not read.run_directory(3).exists()
    assert len(data(cli("show", "race", "--json"))["list"]) == 9, "the other run is whole"


# ---------------------------------------------------------------- config, help


def test_config_why_names_the_layers(cli: Cli, work: Path, store: Path) -> None:
    (work / "settings.py").write_text(
        "from sweep.config import Scope\nscope = Scope()\n"
        "@scope.observe(default=True)\ndef defaults(cfg):\n    cfg.lr = 0.1\n"
        "@scope.observe()\ndef fast(cfg):\n    cfg.lr = 0.5\n"
    )
    text = cli("config", "why", "lr", "settings.py", "fast", "lr=0.2").stdout
    assert text.splitlines()[0] == "lr = 0.2"
    assert [word in text for word in ("defaults", "fast", "lr=0.2")] == [True] * 3
    assert [one["value"] for one in data(cli("config", "why", "lr", "settings.py:scope", "fast", "--json"))["layers"]] == [0.1, 0.5]
    assert "did you mean 'scope'?" in cli("config", "why", "lr", "settings.py:scoep", code=3).stderr
    lines = ["n = 5", "  schema        Square  (unset) → 3", "  command line  n=5     3 → 5"]
    assert cli("config", "why", "n", "Square").stdout.splitlines() == lines
    assert cli("config", "why", "tag", "work.py:Square").stdout == "tag = 'a'\n  the code of Square\n"
    assert cli("config", "why", "n", "work.py:pipeline", "n=4").stdout == "n = 4\n  command line: n=4\n"


def test_every_command_has_a_short_help_that_is_not_cut() -> None:
    context = click.Context(app)
    for name, command in app.commands.items():
        assert not command.get_short_help_str(limit=55).endswith("..."), name
        assert command.get_help(context)


def test_no_colours_where_they_are_not_wanted(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    coloured = CliRunner().invoke(app, ["ls"], color=True).stdout
    assert "\x1b[" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in CliRunner().invoke(app, ["ls"], color=True).stdout


def test_a_read_only_store_can_be_read(cli: Cli, store: Path, work: Path) -> None:
    shutil.copytree(work, work / "copy")
    copy = work / "copy" / "sweep.db"
    copy.chmod(0o444)
    assert len(data(cli("ls", "--store", str(copy), "--json"))) == 4


def test_names_of_runs_that_look_alike(cli: Cli, store: Path) -> None:
    cli("run", "work.py:tune", "--budget", "1", "--seed", "1", "-q")
    with Store(store, readonly=True) as read:
        assert find_run(read, "tune").segment == "tune#2"
    assert data(cli("show", "tune", "--json"))["path"] == "tune#2"
    assert data(cli("show", "tune#1", "--json"))["path"] == "tune"
