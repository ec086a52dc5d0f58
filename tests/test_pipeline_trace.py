"""``SWEEP_DEBUG``: every stage of every nested experiment, as lines or as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sweep import Experiment, Pipeline, Retry, SweepExperiment, Uniform
from sweep.optimizers import RandomOptimizer

FAILURES = [0]


def flaky(x: int) -> int:
    if FAILURES[0]:
        FAILURES[0] -= 1
        raise ValueError("no luck")
    return x + 1


class Inner(Experiment):
    x: int = 1

    def pipeline(self) -> Pipeline:
        tried = Pipeline().stage("flaky", flaky, retry=Retry(1, backoff=0)).through(y=int)
        return tried.stage("same", lambda y: y, cache=True).through(z=int)


async def tune() -> float:
    objective = Pipeline(lr=float).stage("fit", lambda lr: lr).through(loss=float)
    sweep = SweepExperiment(objective, {"lr": Uniform(1, 2)}, optimizer=RandomOptimizer(), seed=1, name="lr")
    return float((await sweep.run(1)).best_score)


def broken() -> int:
    raise KeyError("last")


STUDY = (
    Pipeline()
    .stage("one", Inner())
    .stage("two", Inner(name="again"))
    .stage("tune", tune)
    .through(best=float)
    .stage("never", lambda: 1, skip_if=lambda s: True)
    .stage("bad", broken)
)


def run(name: str = "r") -> None:
    with pytest.raises(KeyError):
        STUDY.run(name=name)


@pytest.fixture(autouse=True)
def one_failure() -> None:
    FAILURES[0] = 1


def test_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SWEEP_DEBUG", "1")
    run()
    told = [line.removeprefix("debug: ") for line in capsys.readouterr().err.splitlines() if line.startswith("debug: ")]
    for expected in (
        "r/one/Inner/flaky  starts with x=1",
        "r/one/Inner/flaky  attempt 1 failed: ValueError: no luck",
        "r/tune/lr/trial[0]/fit  starts with lr=1.",
        "r/tune/lr  trial[0] completed, score 1.",
        "r/never  skipped",
    ):
        assert any(line.startswith(expected) for line in told), (expected, told)
    assert any(line.startswith("r/one/Inner/flaky  gave 2 in ") and line.endswith("s, attempt 2") for line in told)
    assert "r/two/again/same  gave 2 from the cache" in told
    assert any(line.startswith("r/bad  failed after ") and line.endswith("s: KeyError: 'last'") for line in told)
    run()
    again = capsys.readouterr().err
    assert "debug: r/tune  restored from the journal" in again
    assert "trial[0]" not in again


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SWEEP_DEBUG", "json")
    run()
    told: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    ends = {one["path"]: one for one in told if one["event"] == "stage.ended"}
    assert ends["r/one/Inner/flaky"]["attempt"] == 2
    assert (ends["r/two/again/same"]["cached"], ends["r/one/Inner/same"]["cached"]) == (True, False)
    assert ends["r/bad"]["error"] == "KeyError: 'last'"
    assert ends["r/tune"]["output"] == ends["r/tune/lr/trial[0]/fit"]["output"]
    begun = {one["path"]: one["inputs"] for one in told if one["event"] == "stage.started"}
    assert begun["r/one/Inner/flaky"] == {"x": 1}
    assert begun.keys() == ends.keys()
    (trial,) = [one["trial"] for one in told if one["event"] == "trial.ended"]
    assert (trial["number"], trial["status"], trial["score"]) == (0, "completed", ends["r/tune"]["output"])


def test_large_values_are_cut_short(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SWEEP_DEBUG", "json")
    Pipeline().stage("a", lambda: [float("nan"), "x" * 5000, list(range(1000))]).through(x=list).run()
    (end,) = [one for one in map(json.loads, capsys.readouterr().err.splitlines()) if one["event"] == "stage.ended"]
    assert end["output"][0] == "nan"
    assert len(json.dumps(end)) < 2000
