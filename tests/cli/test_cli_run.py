"""``sweep run``, ``resume``, ``rerun``, ``validate``: what runs, what is restored, which exit code."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from cli_world import Cli, calls, data

from sweep.store.runs import find_run
from sweep.store.writer import Store

# ---------------------------------------------------------------- what is run


def test_a_pipeline_is_run_under_its_name_and_its_values_are_typed(cli: Cli) -> None:
    result = cli("run", "work.py:pipeline", "n=3", "--json")
    assert data(result)["state"] == {"n": 3, "x": 3, "y": 4}
    assert "training" in result.stderr, "what the user's code prints is not mixed with the document"
    assert [one["path"] for one in data(cli("ls", "--json"))] == ["pipeline"]


def test_the_users_prints_stay_on_stdout_without_json(cli: Cli) -> None:
    assert "training\n" in cli("run", "work.py:pipeline", "n=3").stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["n=5"], {"n": 5, "tag": "a", "text": "a25"}),
        (["n=5", "tag=7"], {"n": 5, "tag": "7", "text": "725"}),
        (["tag=%b c%"], {"n": 3, "tag": "b c", "text": "b c9"}),
        (["tag=true"], {"n": 3, "tag": "true", "text": "true9"}),
    ],
)
def test_fields_are_read_by_their_type(cli: Cli, words: list[str], expected: dict[str, object]) -> None:
    result = cli("run", "work.py:Square", *words)
    for name, value in expected.items():
        assert f"{name} = {value!r}" in result.stdout


def test_values_are_never_evaluated(cli: Cli, work: Path) -> None:
    cli("run", "work.py:Square", "tag=__import__('os').mkdir('evil')")
    assert not (work / "evil").exists()


def test_a_function_that_returns_a_sweep_takes_its_parameters(cli: Cli) -> None:
    found = data(cli("run", "work.py:make", "most=2", "name=other", "--budget", "2", "--json"))
    assert (found["path"], found["n_trials"], found["best_params"]["k"] <= 2) == ("other", 2, True)
    assert "needs most" in cli("run", "work.py:make", code=2).stderr


def test_run_options_reach_the_sweep(cli: Cli) -> None:
    first = data(cli("run", "work.py:tune", "--budget", "3", "--seed", "9", "--json"))
    again = data(cli("run", "work.py:tune", "--budget", "3", "--seed", "9", "--new", "--json"))
    assert first["n_trials"] == 3
    assert (first["path"], again["path"]) == ("tune", "tune#2")
    assert first["best_params"] == again["best_params"], "one seed, one result"
    smoke = data(cli("run", "work.py:tune", "--smoke", "--json"))
    assert (smoke["path"], smoke["n_trials"]) == ("tune-smoke", 1)
    settings = data(cli("run", "work.py:tune", "mode=max", "name=up", "--budget", "trials=4,seconds=60", "--json"))
    assert settings["path"] == "up"
    assert settings["best_score"] == max(one["score"] for one in data(cli("show", "up", "--json"))["list"])


def test_a_file_with_a_syntax_error_shows_its_line_and_no_frame_of_ours(cli: Cli, work: Path) -> None:
    (work / "broken.py").write_text("import sys\ndef f(:\n")
    said = cli("run", "broken.py", code=2).stderr
    assert 'broken.py", line 2' in said
    assert said.count("File ") == 1
    assert "SyntaxError" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "wrk.py"], 3, "did you mean 'work.py'?"),
        (["run", "work.py"], 2, "work.py:pipeline  (Pipeline)"),
        (["run", "work.py:pipline"], 3, "did you mean 'pipeline'?"),
        (["run", "."], 3, "'.' is a directory; name a .py file in it"),
        (["run", "work.py:number"], 2, "work.py:number is 7"),
        (["run", "work.py:pipeline"], 2, "pipeline needs n: give n=VALUE"),
        (["run", "work.py:pipeline", "m=3"], 2, "unknown key 'm'"),
        (["run", "work.py:pipeline", "n=three"], 2, "'n=three': expected a valid integer"),
        (["run", "work.py:pipeline", "n=[1,"], 2, "a value is missing"),
        (["run", "work.py:pipeline", "three"], 2, "'three' is no key=value"),
        (["run", "work.py:Square", "tagg=b"], 2, "did you mean 'tag'?"),
        (["run", "work.py:tune", "metirc=b"], 2, "did you mean 'metric'?"),
        (["run", "work.py:tune", "repeats=0"], 2, "repeats=0: expected a whole number >= 1"),
        (["run", "work.py:tune", "--budget", "many"], 2, "--budget many"),
        (["run", "work.py:tune", "--budget", "trails=3"], 2, "did you mean 'trials'?"),
        (["run", "work.py:tune", "--workers", "0"], 2, "--workers"),
        (["run", "work.py:pipeline", "n=1", "--smoke"], 2, "is no sweep"),
        (["run", "work.py:Square", "--seed", "1"], 2, "--seed"),
        (["runn"], 2, "did you mean 'run'?"),
        (["run", "work.py", "--budgte", "3"], 2, "--budget"),
        (["resume", "tune"], 4, "there is no store"),
    ],
)
def test_mistakes_are_named_with_what_was_meant(cli: Cli, words: list[str], code: int, message: str) -> None:
    result = cli(*words, code=code)
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert calls() == [], "nothing has run"


def test_a_file_is_imported_once_without_its_main_block_and_may_lie_in_a_package(cli: Cli, work: Path) -> None:
    package = work / "lab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("def double(n: int) -> int:\n    return 2 * n\n")
    (package / "job.py").write_text(
        "from sweep import Pipeline\nfrom .parts import double\n"
        "job = Pipeline().stage('double', double).through(m=int)\n"
        "if __name__ == '__main__':\n    raise SystemExit('the main block ran')\n"
    )
    assert data(cli("run", "lab/job.py", "n=4", "--json"))["state"]["m"] == 8


def test_a_file_whose_name_hides_a_module_is_refused(cli: Cli, work: Path) -> None:
    (work / "json.py").write_text("")
    assert "is taken by" in cli("run", "json.py", code=2).stderr


def test_a_file_that_cannot_be_imported_shows_the_users_own_lines(cli: Cli, work: Path) -> None:
    (work / "broken.py").write_text("def f():\n    return 1 / 0\nf()\n")
    text = cli("run", "broken.py", code=2).stderr
    assert "ZeroDivisionError" in text
    assert "broken.py" in text
    assert "sweep/cli" not in text


def test_a_file_that_ends_the_program_is_named(cli: Cli, work: Path) -> None:
    (work / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    assert "ended the program while it was imported: sys.exit(0)" in cli("run", "leaving.py", code=2).stderr


# ---------------------------------------------------------------- failures and resume


def test_a_failed_stage_shows_the_users_code_and_a_resume_restores_the_rest(cli: Cli, work: Path) -> None:
    (work / "boom").touch()
    failed = cli("run", "work.py:pipeline", "n=3", code=1)
    assert "ValueError: the reactor is hot" in failed.stderr
    assert "anyio" not in failed.stderr
    assert "sweep/pipeline" not in failed.stderr
    assert "sweep/pipeline" in cli("run", "work.py:pipeline", "n=3", "--debug", code=1).stderr, "--debug shows it all"
    assert calls() == ["load", "train", "train"]
    before = data(cli("show", "pipeline", "--json"))
    plan = data(cli("resume", "pipeline", "--dry-run", "--json"))["plan"]
    assert [(line["path"], line["action"]) for line in plan] == [("load", "restored"), ("train", "runs")]
    assert calls() == []
    after = data(cli("show", "pipeline", "--json"))
    assert {**after, "age": 0} == {**before, "age": 0}, "a dry run changes nothing"
    (work / "boom").unlink()
    result = cli("resume", "pipeline")
    assert calls() == ["train"]
    assert "y = 4" in result.stdout
    assert "load   restored" in result.stderr
    assert "finished already" in cli("resume", "pipeline").stderr


def test_redo_runs_a_finished_stage_again_and_no_other(cli: Cli) -> None:
    cli("run", "work.py:pipeline", "n=3")
    calls()
    assert "did you mean 'train'?" in cli("resume", "pipeline", "--redo", "trian", code=2).stderr
    cli("resume", "pipeline", "--redo", "train")
    assert calls() == ["train"]


def test_changed_code_is_shown_and_changed_structure_refused(cli: Cli, work: Path) -> None:
    (work / "boom").touch()
    cli("run", "work.py:pipeline", "n=3", code=1)
    (work / "boom").unlink()
    text = (work / "work.py").read_text()
    (work / "work.py").write_text(text.replace("    return n\n", "    return n + 10\n"))
    plan = data(cli("resume", "pipeline", "--dry-run", "--json"))["plan"]
    assert [line["changed"] for line in plan] == [True, False]
    (work / "work.py").write_text(text.replace('.stage("train", train)', '.stage("learn", train)'))
    calls()
    refused = cli("resume", "pipeline", code=2)
    assert "stage 'train' was renamed to 'learn'" in refused.stderr
    assert "--allow-changed" in refused.stderr
    assert calls() == []
    cli("resume", "pipeline", "--allow-changed")
    assert calls() == ["train"]


def test_a_sweep_in_which_all_fail_ends_with_1_and_says_why(cli: Cli, work: Path) -> None:
    (work / "boom").touch()
    result = cli("run", "work.py:tune", "--budget", "20", "--json", code=1)
    assert data(result)["status"] == "failed"
    assert data(result)["n_trials"] == 5
    assert "the reactor is hot" in cli("logs", "tune/trial[0]").stdout


def test_a_larger_budget_extends_a_finished_sweep(cli: Cli) -> None:
    cli("run", "work.py:tune", "--budget", "2")
    plan = data(cli("resume", "tune", "--budget", "5", "--dry-run", "--json"))["plan"]
    assert ("new trials", "3 of 5 left in the budget") in [(line["path"], line["note"]) for line in plan]
    found = data(cli("resume", "tune", "--budget", "5", "--json"))
    assert (found["path"], found["n_trials"]) == ("tune", 5)
    assert sorted(calls()) == [f"trial {number}" for number in range(5)]


def test_debug_traces_every_stage(cli: Cli) -> None:
    text = cli("run", "work.py:pipeline", "n=3", "--debug").stderr
    assert "pipeline/load  starts with n=3" in text
    assert "pipeline/train  gave 4 in" in text
    assert "trial[0] step 1: loss=" in cli("run", "work.py:tune", "--budget", "1", "--debug").stderr


def test_quiet_says_nothing_but_errors(cli: Cli) -> None:
    assert cli("run", "work.py:tune", "--budget", "2", "-q").stderr == ""
    assert "unknown key" in cli("run", "work.py:pipeline", "m=1", "-q", code=2).stderr


# ---------------------------------------------------------------- scripts


def test_a_scripts_run_is_resumed_by_executing_the_script(cli: Cli, work: Path) -> None:
    script = work / "script.py"
    script.write_text(
        "import sys\nfrom work import pipeline\n"
        "if __name__ == '__main__':\n    print(sys.argv[1], pipeline.run(n=3, name='kept').y)\n"
    )
    (work / "boom").touch()
    sys.path.insert(0, str(work))
    arguments = sys.argv
    try:
        sys.argv = [str(script), "hello"]
        with pytest.raises(ValueError, match="reactor"):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = arguments
    with Store("sweep.db") as store:  # the test runner is no script: write the entry that python would have made
        row = find_run(store, "kept")
        entry = json.dumps({"kind": "script", "script": str(script), "argv": ["hello"], "cwd": str(work)})
        store.add("UPDATE run SET entry=? WHERE id=?", (entry, row.id))
    calls()
    assert "train  runs" in cli("resume", "kept", "--dry-run").stdout
    assert calls() == []
    (work / "boom").unlink()
    assert cli("resume", "kept").stdout == "training\nhello 4\n"
    assert calls() == ["train"]
    for words in (["--dry-run"], []):
        assert "has finished already; nothing to do" in cli("resume", "kept", *words).stderr
    assert calls() == []
    script.write_text("print('nothing')\n")
    assert "finished already" in cli("resume", "kept").stderr


def test_a_notebooks_run_says_what_to_do(cli: Cli) -> None:
    cli("run", "work.py:tune", "--budget", "1")
    with Store("sweep.db") as store:
        store.add("UPDATE run SET entry=?, status='interrupted' WHERE id=1", ('{"kind": "notebook"}',))
    assert "run the cell again" in cli("resume", "1", code=2).stderr


# ---------------------------------------------------------------- one trial, and checking


def test_rerun_runs_one_trial_with_its_parameters_and_seed(cli: Cli) -> None:
    cli("run", "work.py:race", "--budget", "6")
    trials = data(cli("show", "race", "--json"))["list"]
    cut = next(one for one in trials if one["step"] < 3)
    calls()
    found = data(cli("rerun", f"race/trial[{cut['number']}]", "--json"))
    assert calls() == [f"trial {cut['number']}"]
    params = cut["params"]
    assert found["value"] == pytest.approx((params["lr"] - 0.3) ** 2 + params["k"] / 3), "no scheduler cuts it short"
    again = data(cli("show", found["path"], "--json"))
    assert again["params"] == params
    assert [one["step"] for one in again["metrics"]] == [1, 2, 3]
    assert "no trial; name one" in cli("rerun", "race", code=2).stderr
    assert "did you mean" in cli("rerun", "race/trial[99]", code=3).stderr


def test_validate_runs_nothing_and_finds_what_does_not_fit(cli: Cli, work: Path) -> None:
    result = cli("validate", "work.py")
    assert "work.py:race fits together (sweep)" in result.stdout
    assert "train(x) -> y: int" in result.stdout
    (work / "bad.py").write_text(
        "from sweep import Pipeline\n"
        "bad = Pipeline().stage('a', lambda: 1).through(x=int).stage('b', len).through(y=int)\n"
        "def f(x: str) -> str:\n    return x\n"
        "worse = Pipeline().stage('a', lambda: 1).through(x=int).stage('b', f).through(y=int)\n"
    )
    assert "ContractError" in cli("validate", "bad.py:worse", code=2).stderr
    assert cli("validate", "bad.py", code=2).stderr.splitlines()[-1] == "  in bad.py:bad", "the first of them"
    assert calls() == []
    assert not (work / "sweep.db").exists()
