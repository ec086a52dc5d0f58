"""``--redo``: a finished stage runs again wherever it stands in the tree, and nothing else does that need not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dying import Deaths, Killed

from sweep import Context, Experiment, Pipeline, Retry, SweepExperiment, Uniform, open_store
from sweep.errors import ConfigError, UnknownName
from sweep.optimizers import RandomOptimizer
from sweep.pipeline.request import RESUME_VARIABLE, Plan, Planned, Request
from sweep.schedulers import ASHAScheduler


class World:
    """Notes what runs; what stages give can be changed."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.factor = 1.0


WORLD = World()


@pytest.fixture(autouse=True)
def world() -> World:
    WORLD.__init__()  # type: ignore[misc]  # anew for each test
    return WORLD


def load(n: int) -> int:
    WORLD.ran.append(f"load {n}")
    return n


def train(data: int) -> float:
    WORLD.ran.append(f"train {data}")
    return data * WORLD.factor


def fit(lr: float) -> float:
    WORLD.ran.append("fit")
    return lr * WORLD.factor


def score(w: float) -> float:
    WORLD.ran.append("score")
    return w


class Inner(Experiment):
    n: int = 1

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("load", load).through(data=int).stage("train", train).through(score=float)


OBJECTIVE = Pipeline(lr=float).stage("fit", fit).through(w=float).stage("score", score).through(loss=float)


def tuner(**options: Any) -> SweepExperiment:
    space = {"lr": Uniform(0.1, 1)}
    return SweepExperiment(OBJECTIVE, space, optimizer=RandomOptimizer(), metric="loss", seed=1, **options)


class Study(Experiment):
    name = "study"

    def pipeline(self) -> Pipeline:
        prepare = Pipeline().stage("read", self.read).through(rows=int).stage("clean", self.clean).through(clean=int)
        return (
            Pipeline()
            .stage("prepare", prepare)
            .through(clean=int)
            .stage("both", self.both)
            .through(total=float)
            .stage("tune", self.tune)
            .through(best=float)
            .stage("end", self.end)
            .through(out=float)
        )

    def read(self) -> int:
        WORLD.ran.append("read")
        return 1

    def clean(self, rows: int) -> int:
        WORLD.ran.append("clean")
        return rows

    async def both(self) -> float:
        WORLD.ran.append("both")
        return float((await Inner(n=1).run()).value + (await Inner(n=2).run()).value)

    async def tune(self) -> float:
        WORLD.ran.append("tune")
        return float((await tuner(name="lr").run(3)).best_score)

    def end(self, total: float, best: float) -> float:
        WORLD.ran.append("end")
        return total + best


class Life:
    """Resumes one run again and again."""

    def __init__(self, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.make, self.patch = make, monkeypatch

    def again(self, *redo: str, dry_run: bool = False) -> Any:
        """Return what the resume gives: its result, or its plan."""
        WORLD.ran.clear()
        request = Request(1, redo=redo, dry_run=dry_run)
        with self.patch.context() as patch:
            patch.setenv(RESUME_VARIABLE, request.to_text())
            try:
                return self.make()
            except Planned as planned:
                return planned.plan

    def redone(self, *redo: str) -> tuple[list[str], list[str]]:
        """Return what the plan says runs again, and what then ran; the real resume says the same plan."""
        plan: Plan = self.again(*redo, dry_run=True)
        assert not WORLD.ran, "a dry run runs nothing"
        self.again(*redo)
        return [line.path for line in plan.lines if line.action == "runs again"], list(WORLD.ran)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Life:
    life = Life(lambda: Study(name="study").run(), monkeypatch)
    life.make()
    return life


@pytest.mark.parametrize(
    ("redo", "told", "ran"),
    [
        ("clean", ["prepare", "prepare/clean"], ["clean"]),
        ("prepare", ["prepare", "prepare/read", "prepare/clean"], ["read", "clean"]),
        ("both/Inner/train", ["both", "both/Inner/train"], ["both", "train 1"]),
        ("both/Inner#2/load", ["both", "both/Inner#2/load"], ["both", "load 2"]),
        ("train", ["both", "both/Inner/train", "both/Inner#2/train"], ["both", "train 1", "train 2"]),
        ("study/end", ["end"], ["end"]),
        ("trial[1]/fit", ["tune", "tune/lr/trial[1]/fit"], ["tune", "fit"]),
        ("tune/lr/trial/score", ["tune", *(f"tune/lr/trial[{n}]/score" for n in range(3))], ["tune", *["score"] * 3]),
        ("tune", ["tune"], ["tune"]),
    ],
)
def test_what_is_meant_runs_again_and_what_leads_to_it(study: Life, redo: str, told: list[str], ran: list[str]) -> None:
    assert study.redone(redo) == (told, ran)
    assert study.again().state.out == pytest.approx(study.make().state.out)
    with open_store() as store:
        assert {row[0] for row in store.rows("SELECT status FROM run", ())} == {"completed"}


def test_new_values_take_the_place_of_the_old_ones(study: Life) -> None:
    before = study.again("study/end")
    WORLD.factor = 10.0
    after = study.again("train", "fit", "trial/score", "end")
    assert after.state.total == 10 * before.state.total
    assert after.state.best == pytest.approx(10 * before.state.best)
    assert after.state.out == pytest.approx(10 * before.state.out)
    (lr,) = [one for one in study.again().children if one.name == "lr"]
    assert lr.value == pytest.approx(after.state.best)


def test_a_stage_made_of_what_is_made_anew_is_told(study: Life) -> None:
    plan = study.again("both/Inner/train", dry_run=True)
    notes = {line.path: line.note for line in plan.lines}
    assert "--redo end makes it of what both gives now" in notes["end"]
    assert notes["both"] == "it leads to Inner/train"
    assert notes["tune"] == ""


def test_names_that_nobody_or_that_several_have(study: Life) -> None:
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        study.again("trian")
    with pytest.raises(UnknownName, match="did you mean 'both/Inner/train'"):
        study.again("both/Iner/train")
    with pytest.raises(UnknownName, match="'study/train'"):
        study.again("study/train")


def test_a_name_at_two_places_is_refused_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> Any:
        inner = Pipeline().stage("train", lambda: WORLD.ran.append("inner"))
        return Pipeline().stage("train", lambda: WORLD.ran.append("outer")).stage("deep", inner).run(name="r")

    life = Life(both, monkeypatch)
    life.make()
    with pytest.raises(ConfigError, match=r"2 stages of r are called so; name one:\n  --redo r/train\n  --redo r/deep/train"):
        life.again("train")
    assert life.redone("r/train") == (["train"], ["outer"])
    assert life.redone("deep/train") == (["deep", "deep/train"], ["inner"])


def test_iterations_items_and_sides_of_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Any:
        return (
            Pipeline(n=int, xs=list[int])
            .loop_while(lambda s: s.n < 3)
            .stage("add", add)
            .through(n=int)
            .end_loop()
            .branch(lambda s: WORLD.ran.append("asked") or s.n > 2, Pipeline().stage("big", side).through(side=str), name="way")
            .map("square", square, over="xs")
            .through(squares=list[int])
            .run(name="r", n=0, xs=[1, 2])
        )

    def add(n: int) -> int:
        WORLD.ran.append("add")
        return n + 1

    def side() -> str:
        WORLD.ran.append("big")
        return "big"

    def square(x: int) -> int:
        WORLD.ran.append(f"square {x}")
        return x * x

    life = Life(run, monkeypatch)
    life.make()
    assert life.redone("add#1") == (["add#1"], ["add"])
    assert life.redone("add") == (["add#0", "add#1", "add#2"], ["add"] * 3)
    assert life.redone("big") == (["way/big"], ["big"])
    assert life.again("way").side == "big"
    assert WORLD.ran == ["asked", "big"]
    assert life.redone("square") == (["square"], ["square 1", "square 2"])


def test_retries_are_counted_anew_and_old_checkpoints_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    failures, loaded = [2], list[Any]()

    def flaky(ctx: Context) -> int:
        WORLD.ran.append("flaky")
        loaded.append(ctx.load())
        ctx.save(len(WORLD.ran))
        if failures[0]:
            failures[0] -= 1
            raise OSError
        return 1

    stage = Pipeline().stage("flaky", flaky, retry=Retry(2, backoff=0)).through(x=int)
    life = Life(lambda: stage.run(name="r"), monkeypatch)
    life.make()
    failures[0] = 2
    loaded.clear()
    assert life.again("flaky").x == 1
    assert len(WORLD.ran) == 3
    assert loaded == [None, 1, 2]


def test_killed_at_any_commit_a_plain_resume_goes_on_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deaths = Deaths(monkeypatch)
    for at in range(1, 100, 2):
        WORLD.__init__()  # type: ignore[misc]  # anew for each kill
        monkeypatch.setenv("SWEEP_STORE", str(tmp_path / f"{at}.db"))
        life = Life(lambda: Study(name="study").run(), monkeypatch)
        life.make()
        WORLD.factor = 10.0
        died = deaths.run(lambda life=life: life.again("both/Inner/train", "both", "end"), at=at)
        first = list(WORLD.ran)
        result = life.again() if isinstance(died, Killed) else died
        ran = first + (list(WORLD.ran) if isinstance(died, Killed) else [])
        if not ran:  # killed before anything was forgotten
            result = life.again("both/Inner/train", "both", "end")
            ran = list(WORLD.ran)
        assert result.state.total == 12, at
        assert ran.count("train 1") in (1, 2), (at, ran)
        assert "load 1" not in ran, (at, ran)
        assert "train 2" not in ran, (at, ran)
        with open_store() as store:
            assert {row[0] for row in store.rows("SELECT status FROM run", ())} == {"completed"}
        if not isinstance(died, Killed):
            break
    assert at > 3


# ---------------------------------------------------------------- trials


def sweep_life(monkeypatch: pytest.MonkeyPatch, budget: int = 3, **options: Any) -> Life:
    life = Life(lambda: tuner(name="s", **options).run(budget), monkeypatch)
    life.make()
    return life


def facts(result: Any) -> list[Any]:
    return [(trial.number, str(trial.status), trial.score, trial.params, trial.attempts) for trial in result.trials]


def test_a_redone_trial_competes_with_its_new_score(monkeypatch: pytest.MonkeyPatch) -> None:
    life = sweep_life(monkeypatch)
    before = life.again()
    best = before.best_trial.number
    WORLD.factor = 100.0
    after = life.again(f"trial[{best}]/fit")
    assert WORLD.ran == ["fit"], "the score is computed of the old w: it was not meant"
    after = life.again(f"trial[{best}]/fit", f"trial[{best}]/score")
    assert WORLD.ran == ["fit", "score"]
    assert after.trials[best].score == pytest.approx(100 * before.trials[best].score)
    assert after.best_trial.number != best
    assert [trial.attempts for trial in after.trials] == [3 if n == best else 1 for n in range(3)]
    assert facts(life.again()) == facts(after), "what is read again is what was"
    assert life.again().cost == after.cost
    assert len(life.again("score").trials) == 3


def test_a_trial_that_failed_can_be_redone_and_one_that_was_pruned_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(w: float, ctx: Context) -> float:
        WORLD.ran.append("judge")
        for step in range(1, 4):
            ctx.report(step, loss=w)
        return w

    objective = Pipeline(lr=float).stage("fit", fit).through(w=float).stage("judge", judge).through(loss=float)
    scheduler = ASHAScheduler(max_epochs=3, rule="stopping")

    def run() -> Any:
        options: dict[str, Any] = {"optimizer": RandomOptimizer(), "scheduler": scheduler, "metric": "loss", "seed": 1, "name": "s"}
        return SweepExperiment(objective, {"lr": Uniform(0.1, 1)}, **options).run(6)

    life = Life(run, monkeypatch)
    pruned = [trial for trial in life.make().trials if trial.status == "stopped"]
    assert pruned, "the test needs one"
    with pytest.raises(ConfigError, match=rf"trial\[{pruned[0].number}\] was stopped \(pruned\).*sweep rerun"):
        life.again(f"trial[{pruned[0].number}]/fit")


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a stage"])
@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
def test_killed_at_any_commit_of_a_redone_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: bool, inside: bool
) -> None:
    meant = ("trial[1]/fit", "trial[1]/score")

    def begun(path: Path) -> Life:
        WORLD.__init__()  # type: ignore[misc]  # anew for each kill
        monkeypatch.setenv("SWEEP_STORE", str(path))
        life = Life(lambda: Study(name="study").run() if inside else tuner(name="s").run(3), monkeypatch)
        life.make()
        WORLD.factor = 10.0
        return life

    def scores(path: Path) -> list[float]:
        with open_store(path) as store:
            assert {row[0] for row in store.rows("SELECT status FROM run", ())} == {"completed"}
            return [row[0] for row in store.rows("SELECT score FROM run WHERE level='trial' ORDER BY number", ())]

    deaths = Deaths(monkeypatch)
    begun(tmp_path / "old.db")
    begun(tmp_path / "new.db").again(*meant)
    old, new = scores(tmp_path / "old.db"), scores(tmp_path / "new.db")
    assert new == [old[0], pytest.approx(10 * old[1]), old[2]]
    forgotten = 0
    for at in range(1, 100):
        life = begun(tmp_path / f"{at}.db")
        died = deaths.run(lambda life=life: life.again(*meant), at=at, after=after)
        life.again()
        found = scores(tmp_path / f"{at}.db")
        assert found == new or (found == old and not forgotten), (at, found)  # old: killed before anything was forgotten
        forgotten += found == new
        if not isinstance(died, Killed):
            break
    assert forgotten > 3
