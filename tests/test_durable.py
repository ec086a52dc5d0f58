"""Durable runs: what is kept, what runs again, what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from dying import Deaths, Killed, rows
from pydantic import AfterValidator, BaseModel, create_model

from sweep import Cache, Experiment, Pipeline, Retry, Status, open_store
from sweep.clock import using_clock
from sweep.errors import (
    ContractError,
    NotStorable,
    ResumeRefused,
    RunLocked,
    RunNotFound,
    StoreCorrupt,
    StoreError,
    StoreTooNew,
    StoreUnwritable,
    SweepError,
)
from sweep.store.ddl import SCHEMA_VERSION
from sweep.store.runs import children, find_run, roots
from sweep.store.writer import Store
from sweep.testing.clock import VirtualClock


class Log(list[Any]):
    """A list whose content is no part of the code that closes over it."""


class Crash(BaseException):
    """Ends a run from inside a stage."""


class Model(BaseModel):
    loss: float


def statuses(path: Path) -> list[str]:
    return [row[0] for row in rows(path, "SELECT status FROM run ORDER BY id")]


def chain(log: Log, *names: str, crash: str = "") -> Pipeline:
    """Stages that add one to ``n`` each, and note that they ran."""
    pipeline = Pipeline(n=int)
    for name in names:

        def work(n: int, me: str = name) -> int:
            log.append(me)
            if me == crash:
                raise Crash
            return n + 1

        pipeline = pipeline.stage(name, work, me=name).through(n=int)
    return pipeline


# ---------------------------------------------------------------- keeping and going on


def test_a_named_run_is_kept_and_goes_on_where_it_was_cut(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    crash = Log(["c"])

    def work(n: int, me: str) -> int:
        log.append(me)
        if me in crash:
            raise Crash
        return n + 1

    pipeline = Pipeline(n=int)
    for name in "abcd":
        pipeline = pipeline.stage(name, work, me=name).through(n=int)
    with pytest.raises(Crash):
        pipeline.run(n=0, name="run")
    assert statuses(store_path) == ["interrupted"]
    crash.clear()
    assert pipeline.run(n=0, name="run").n == 4
    assert log == ["a", "b", "c", "c", "d"]
    assert statuses(store_path) == ["completed"]
    assert "resuming 'run': 2 finished steps restored" in capsys.readouterr().err


def test_an_exception_fails_the_run_which_then_goes_on(store_path: Path) -> None:
    log = Log()

    def flaky(n: int) -> int:
        log.append(n)
        if len(log) == 1:
            raise OSError("disk")
        return n

    pipeline = Pipeline(n=int).stage("a", flaky).through(x=int)
    with pytest.raises(OSError, match="disk"):
        pipeline.run(n=1, name="run")
    ((status, reason, error),) = rows(store_path, "SELECT status, reason, error FROM run")
    assert (status, reason, error) == ("failed", "error", "OSError: disk")
    assert pipeline.run(n=1, name="run").x == 1
    assert rows(store_path, "SELECT status, error FROM run") == [("completed", None)]


def ten(log: Log) -> Pipeline:
    """Ten stages of every kind: models, several fields, nothing, arrays, nested, retried, skipped."""
    failures = Log()

    def note(name: str, value: Any) -> Callable[[], Any]:
        def stage() -> Any:
            log.append(name)
            return value

        return stage

    def flaky() -> int:
        log.append("flaky")
        if len(failures) < 1:
            failures.append(1)
            raise OSError("once")
        return 3

    inner = Pipeline().stage("in1", note("in1", 1)).through(p=int).stage("in2", lambda p: p + 1).through(q=int)
    return (
        Pipeline(start=int)
        .stage("one", note("one", 1)).through(a=int)
        .stage("model", note("model", {"loss": 0.5})).through(Model)
        .stage("several", note("several", {"b": 2, "c": "x"})).through(b=int, c=str)
        .stage("nothing", note("nothing", None))
        .stage("array", note("array", np.arange(2000.0))).through(d=np.ndarray)
        .stage("flaky", flaky).through(e=int, retry=Retry(3, backoff=0))
        .stage("skipped", note("skipped", 1), skip_if=lambda s: s.start == 0).through(f=int)
        .stage("nested", inner).through(q=int)
        .stage("unkept", note("unkept", 7)).through(g=int, checkpoint=False)
        .stage("last", lambda g, q, e: g + q + e).through(h=int)
    )  # fmt: skip


def test_killed_at_every_transaction_no_finished_stage_runs_again(deaths: Deaths, tmp_path: Path) -> None:
    whole = ten(Log()).run(start=0, name="whole", store=tmp_path / "whole.db")
    total = deaths.count
    assert total > 15
    for at in range(1, total + 1):
        store, log = tmp_path / f"{at}.db", Log()
        killed = deaths.run(lambda log=log, s=store: ten(log).run(start=0, name="r", store=s), at=at)
        assert isinstance(killed, Killed)
        kept = "SELECT key FROM journal WHERE kind IN ('stage', 'done')"
        done = {key for (key,) in rows(store, kept)} if _has_tables(store) else set()
        before = Counter(log)
        log.clear()
        state = ten(log).run(start=0, name="r", store=store)
        assert set(state) == set(whole)
        assert all(np.array_equal(state[name], whole[name]) for name in whole)
        again = done & {*log, *(f"nested/{name}" for name in log if name.startswith("in"))}
        assert not again, (at, again)
        assert before["flaky"] + Counter(log)["flaky"] <= 4
        assert set(statuses(store)) == {"completed"}
        assert rows(store, "SELECT count(*) FROM run WHERE root_id=id") == [(1,)]


def _has_tables(store: Path) -> bool:
    return store.exists() and bool(rows(store, "SELECT 1 FROM sqlite_master WHERE name='journal'"))


def test_loops_go_on_at_their_iteration(deaths: Deaths, tmp_path: Path) -> None:
    def make(log: Log) -> Pipeline:
        def step(i: int, total: int) -> dict[str, int]:
            log.append(i)
            return {"total": total + i, "i": i + 1}

        return (
            Pipeline(i=int, total=int)
            .loop_while(lambda s: s.i < 5)
            .stage("step", step)
            .through(total=int)
            .stage("free", lambda total: total)
            .through(seen=int, checkpoint=False)
            .end_loop()
            .stage("end", lambda total: total * 10)
            .through(y=int)
        )

    make(Log()).run(i=0, total=0, name="whole", store=tmp_path / "whole.db")
    total = deaths.count
    for at in range(1, total + 1):
        store, log = tmp_path / f"{at}.db", Log()
        deaths.run(lambda log=log, store=store: make(log).run(i=0, total=0, name="r", store=store), at=at, after=True)
        if "completed" in statuses(store):
            assert at == total
            break
        done = {int(key.partition("#")[2]) for (key,) in rows(store, "SELECT key FROM journal WHERE key LIKE 'step#%'")}
        first = len(log)
        state = make(log).run(i=0, total=0, name="r", store=store)
        assert (state.y, state.i, state.total) == (100, 5, 10)
        assert not done & set(log[first:])
        assert first - len(done) <= 1
        assert set(log) == set(range(5))


def test_a_nested_pipelines_finished_stages_are_not_run_again_by_a_retry(store_path: Path) -> None:
    log, failures = Log(), Log()

    def first() -> int:
        log.append("first")
        return 1

    def second(x: int) -> int:
        if len(failures) < 2:
            failures.append(1)
            raise OSError("again")
        return x + 1

    inner = Pipeline().stage("first", first).through(x=int).stage("second", second).through(y=int)
    state = Pipeline().stage("nested", inner).through(y=int, retry=Retry(2, backoff=0)).run(name="r")
    assert state.y == 2
    assert log == ["first"]


def test_retries_keep_their_count_over_a_kill(store_path: Path, deaths: Deaths) -> None:
    log = Log()

    def fail() -> int:
        log.append(1)
        raise OSError("never")

    pipeline = Pipeline().stage("s", fail).through(x=int, retry=Retry(3, backoff=0))
    for at in range(1, 20):
        if isinstance(deaths.run(lambda: pipeline.run(name="r"), at=at, after=True), Killed) and len(log) == 2:
            break
        log.clear()
        store_path.unlink(missing_ok=True)
    with pytest.raises(OSError, match="never"):
        pipeline.run(name="r")
    assert len(log) == 4


def test_a_restored_stage_runs_no_hook(store_path: Path) -> None:
    log = Log()
    hooks: dict[str, Any] = {
        name: lambda data, name=name: log.append(name) for name in ("before", "validate", "metrics", "after")
    }
    pipeline = (
        Pipeline().stage("a", lambda: 1).through(fields={"x": int}, skip_if=lambda s: log.append("skip"), **hooks)
    )
    pipeline = pipeline.stage("end", _crash)
    for _ in range(2):
        with pytest.raises(Crash):
            pipeline.run(name="r")
    assert log == ["skip", "before", "validate", "metrics", "after"]


# ---------------------------------------------------------------- identity


def test_finished_is_a_new_run_with_one_line(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    pipeline = chain(log, "a")
    pipeline.run(n=0, name="r")
    capsys.readouterr()
    pipeline.run(n=0, name="r")
    assert log == ["a", "a"]
    assert "'r' has finished already: this is a new run, r#2" in capsys.readouterr().err
    with open_store(store_path) as store:
        assert [row.segment for row in roots(store)] == ["r", "r#2"]
        assert find_run(store, "r").segment == "r#2"
        assert find_run(store, "1").segment == "r"


def test_must_reads_a_finished_run_and_never_begins_one(store_path: Path) -> None:
    log = Log()
    pipeline = chain(log, "a")
    with pytest.raises(RunNotFound):
        pipeline.run(n=0, name="r", resume="must")
    assert statuses(store_path) == []
    pipeline.run(n=0, name="r")
    assert pipeline.run(n=0, name="r", resume="must").n == 1
    assert log == ["a"]


def test_never_begins_anew_beside_an_unfinished_run(store_path: Path) -> None:
    log = Log()
    with pytest.raises(Crash):
        chain(log, "a", "b", crash="b").run(n=0, name="r")
    chain(log, "a", "b").run(n=0, name="r", resume="never")
    assert log == ["a", "b", "a", "b"]
    assert statuses(store_path) == ["interrupted", "completed"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("a", "x", "c"), "stage 'b' was renamed to 'x'"),
        (("a", "b", "b2", "c"), "stage 'b2' was inserted"),
        (("a", "c"), "stage 'b' was removed"),
        (("b", "a", "c"), "reordered"),
    ],
)
def test_changed_structure_is_refused_with_a_diff_or_begins_anew(
    changed: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log()
    with pytest.raises(Crash):
        chain(log, "a", "b", "c", crash="c").run(n=0, name="r")
    log.clear()
    with pytest.raises(ResumeRefused) as caught:
        chain(log, *changed).run(n=0, name="r", resume="must")
    assert any(told in line for line in caught.value.diff)
    assert "--allow-changed" in str(caught.value)
    assert log == []
    assert chain(log, *changed).run(n=0, name="r").n == len(changed)
    assert told in capsys.readouterr().err


def test_a_changed_contract_is_refused() -> None:
    first = Pipeline().stage("a", lambda: 1).through(x=int).stage("b", _crash)
    with pytest.raises(Crash):
        first.run(name="r")
    with pytest.raises(ResumeRefused) as caught:
        Pipeline().stage("a", lambda: 1).through(x=float).stage("b", _crash).run(name="r", resume="must")
    assert any("'int' -> 'float'" in line for line in caught.value.diff)


def _model_named(name: str, **fields: Any) -> Any:
    return create_model(name, **{field: (annotation, ...) for field, annotation in fields.items()})


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (_model_named("Part", a=int), _model_named("Part", a=int, b=str), "Part.b: 'str' is new"),
        (_model_named("Part", a=int, b=str), _model_named("Part", a=int), "Part.b: 'str' is gone"),
        (_model_named("Part", a=int), _model_named("Part", a=str), "Part.a: 'int' -> 'str'"),
        (_model_named("Part", a=int), _model_named("Parts", a=int), "'list[Part]' -> 'list[Parts]'"),
    ],
    ids=["a field more", "a field less", "another type", "another name"],
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_changed_class_in_a_contract_is_refused(before: Any, after: Any, told: str, deep: bool) -> None:
    def build(part: Any) -> Pipeline:
        kind = _model_named("Whole", parts=list[part]) if deep else list[part]
        return Pipeline().stage("a", lambda: []).through(x=list[kind] if deep else kind).stage("b", _crash)

    with pytest.raises(Crash):
        build(before).run(name="r")
    with pytest.raises(Crash):
        build(before).run(name="r", resume="must")
    with pytest.raises(ResumeRefused) as caught:
        build(after).run(name="r", resume="must")
    assert any(told in line for line in caught.value.diff), caught.value.diff


def test_a_validator_in_a_contract_is_the_same_in_each_process(store_path: Path) -> None:
    def build() -> Pipeline:
        def positive(value: int) -> int:
            return abs(value)

        return Pipeline().stage("a", lambda: -1).through(x=Annotated[int, AfterValidator(positive)]).stage("b", _crash)

    kept = []
    for _ in range(2):
        kept.append(build())  # both stay, so that their functions have two addresses
        with pytest.raises(Crash):
            kept[-1].run(name="r")
    assert statuses(store_path) == ["interrupted"]


def test_other_inputs_are_another_run_and_equal_ones_are_not() -> None:
    pipeline = Pipeline(data=Any, n=int).stage("a", lambda n: n).through(x=int).stage("b", _crash)
    big = np.arange(5000)
    with pytest.raises(Crash):
        pipeline.run(name="r", data=big, n=1)
    other = big.copy()
    other[2500] = -1
    with pytest.raises(ResumeRefused):
        pipeline.run(name="r", data=other, n=1, resume="must")
    with pytest.raises(ResumeRefused):
        pipeline.run(name="r", data=big, n=2, resume="must")
    with pytest.raises(Crash):
        pipeline.run(name="r", data=big.copy(), n=1, resume="must")


def test_inputs_that_cannot_be_stored_do_not_stand_in_the_way(store_path: Path) -> None:
    pipeline = Pipeline(tool=Any).stage("a", lambda: 1).through(x=int).stage("b", _crash)
    for _ in range(2):
        with pytest.raises(Crash), pytest.warns(RuntimeWarning, match="input 'tool' of 'r'"):
            pipeline.run(name="r", tool=object())
    assert statuses(store_path) == ["interrupted"]


def _crash() -> None:
    raise Crash


def _module(tmp_path: Path, body: str) -> Any:
    namespace: dict[str, Any] = {"__name__": "written"}
    path = tmp_path / "written.py"
    path.write_text(textwrap.dedent(body))
    exec(compile(path.read_text(), str(path), "exec"), namespace)  # noqa: S102  # a user's file, edited between two runs
    return namespace


def test_changed_code_warns_and_a_comment_does_not(tmp_path: Path) -> None:
    script = """
        import os, sys
        from sweep import Pipeline
        {helper}
        def work():
            {comment}
            return helper()
        def end():
            if os.environ.get("CRASH"):
                os._exit(9)
        state = Pipeline().stage("work", work).through(x=int).stage("end", end).run(name="r")
        print(state.x)
    """

    def run(helper: str, comment: str = "pass", crash: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "user.py").write_text(textwrap.dedent(script).format(helper=helper, comment=comment))
        env = {**os.environ, "CRASH": crash}
        return subprocess.run(
            [sys.executable, str(tmp_path / "user.py")], env=env, capture_output=True, text=True, check=False
        )

    assert run("def helper(): return 1", crash="1").returncode == 9
    quiet = run("def helper():  # words\n    return 1", comment="pass  # more words", crash="1")
    assert quiet.returncode == 9
    assert "code has changed" not in quiet.stderr
    told = run("def helper(): return 2")
    assert told.stdout == "1\n", told.stderr
    assert "user.py:11: RuntimeWarning: stage 'r/work': its code has changed since it finished" in told.stderr
    assert "--redo work" in told.stderr
    assert "state = Pipeline().stage" in told.stderr, "the user's line is shown, and none of ours"


# ---------------------------------------------------------------- what cannot be kept


def test_a_default_checkpoint_that_cannot_be_stored_warns_once_and_runs_again(store_path: Path) -> None:
    log, crash = Log(), Log([1])

    class Handle:
        pass

    def opened() -> Any:
        log.append("opened")
        return Handle()

    def use(tool: Any) -> int:
        log.append("use")
        if crash:
            raise Crash
        return 1

    pipeline = Pipeline().stage("open", opened).through(tool=Any).stage("use", use).through(x=int)
    with (
        pytest.warns(RuntimeWarning, match=r"stage 'r/open'.*Handle.*begins again before stage 'open'"),
        pytest.raises(Crash),
    ):
        pipeline.run(name="r")
    crash.clear()
    with pytest.warns(RuntimeWarning, match="begins again"):
        assert Pipeline().then(pipeline).run(name="r").x == 1
    assert log == ["opened", "use", "opened", "use"]


class Tool:
    """No store can keep it."""


def test_a_value_that_cannot_be_stored_warns_at_the_users_line() -> None:
    with pytest.warns(RuntimeWarning, match="begins again") as caught:
        Pipeline().stage("open", Tool).through(tool=Any).run(name="r")  # this line
    assert caught[0].filename == __file__
    assert Path(__file__).read_text().splitlines()[caught[0].lineno - 1].endswith("# this line")


def test_an_input_that_cannot_be_stored_warns_before_anything_runs() -> None:
    log: list[str] = []

    def use(tool: Any, n: int) -> int:
        log.append("use")
        return n

    pipeline = Pipeline().stage("use", use).through(x=int)
    with pytest.raises(RuntimeWarning, match=r"input 'tool' of 'r' is a .*Tool, which cannot be stored. The value goes on"):
        pipeline.run(name="r", tool=Tool(), n=1)
    assert not log
    with pytest.warns(RuntimeWarning) as caught:
        assert pipeline.run(name="r", tool=[Tool()], n=1).x == 1
    assert [one.filename for one in caught] == [__file__]
    assert "input 'tool' of 'r'[0] is a" in str(caught[0].message)
    assert pipeline.run(tool=Tool(), n=1).x == 1, "a run that is not kept loses nothing"


def test_an_explicit_checkpoint_that_cannot_be_kept_is_an_error(store_path: Path) -> None:
    with pytest.raises(NotStorable, match="stage 'r/open'"):
        Pipeline().stage("open", lambda: object()).through(tool=Any, checkpoint=True).run(name="r")
    assert statuses(store_path) == ["failed"]


def test_checkpoint_false_is_silent(store_path: Path) -> None:
    state = Pipeline().stage("open", lambda: object()).through(tool=Any, checkpoint=False).run(name="r")
    assert state.tool is not None


# ---------------------------------------------------------------- the cache


def test_the_cache_is_shared_between_runs(store_path: Path) -> None:
    log = Log()

    def slow(n: int) -> int:
        log.append(n)
        return n * 2

    pipeline = Pipeline(n=int).stage("slow", slow).through(y=int, cache=True)
    assert [pipeline.run(n=n, name=name).y for n, name in [(1, "a"), (1, "b"), (2, "c"), (1, "a")]] == [2, 2, 4, 2]
    assert log == [1, 2]


def test_the_cache_forgets_after_its_time_and_takes_a_key(store_path: Path) -> None:
    log = Log()

    def slow(n: int) -> int:
        log.append(n)
        return n * 2

    timed = Pipeline(n=int).stage("timed", slow).through(y=int, cache=Cache(ttl=10))
    clock = VirtualClock()

    async def twice() -> None:
        await timed.run(n=1, name="a")
        clock.advance(9)
        await timed.run(n=1, name="b")
        assert log == [1]
        clock.advance(2)
        await timed.run(n=1, name="c")
        assert log == [1, 1]

    with using_clock(clock):
        asyncio.run(twice())
    keyed = Pipeline(n=int).stage("keyed", slow).through(y=int, cache=Cache(key=lambda arguments: arguments["n"] % 2))
    assert [keyed.run(n=n, name="k").y for n in (2, 4, 3)] == [4, 4, 6]


def test_the_cache_needs_a_store() -> None:
    with pytest.raises(ContractError, match=r"run\(name="):
        Pipeline().stage("s", lambda: 1).through(x=int, cache=True).run()


def test_arrays_in_the_cache_survive_the_run_that_made_them(store_path: Path) -> None:
    pipeline = Pipeline().stage("s", lambda: np.arange(5000.0)).through(x=np.ndarray, cache=True)
    assert pipeline.run(name="a").x.sum() == pipeline.run(name="b").x.sum()


# ---------------------------------------------------------------- ownership


def test_two_resumers_one_works(store_path: Path) -> None:
    found: list[Any] = []

    def again() -> int:
        code = (
            "from sweep import Pipeline; Pipeline().stage('s', lambda: 1).through(x=int).run(name='r', resume='must')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        found.append(done)
        with pytest.raises(RunLocked) as caught:
            asyncio.run(_elsewhere(store_path))
        found.append(caught.value)
        return 1

    Pipeline().stage("s", again).through(x=int).run(name="r")
    child, mine = found
    assert child.returncode == 1
    assert "RunLocked" in child.stderr
    assert str(os.getpid()) in child.stderr
    assert str(os.getpid()) in mine.owner


async def _elsewhere(path: Path) -> None:
    """Resume from this process, outside of the stage that runs."""
    with Store(path) as store:
        store.own(1, "r")


def test_a_fenced_owner_cannot_write(store_path: Path) -> None:
    def usurp() -> int:
        with sqlite3.connect(store_path) as connection:
            connection.execute("UPDATE run SET epoch=epoch+1")
        connection.close()
        return 1

    with pytest.raises(RunLocked, match="taken it over"):
        Pipeline().stage("s", usurp).through(x=int).run(name="r")
    assert rows(store_path, "SELECT count(*) FROM journal") == [(0,)]
    assert statuses(store_path) == ["running"]


def test_liveness_is_read_from_the_lock(store_path: Path) -> None:
    seen: list[bool] = []

    def look() -> int:
        code = f"from sweep.store.writer import Store; print(Store({str(store_path)!r}).is_live(1))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seen.append(done.stdout == "True\n")
        return 1

    Pipeline().stage("s", look).through(x=int).run(name="r")
    with Store(store_path) as store:
        seen.append(store.is_live(1))
    assert seen == [True, False]


def test_a_store_does_not_cross_a_fork(store_path: Path) -> None:
    with Store(store_path) as store:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.rows("SELECT 1")
            except StoreError as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        store.rows("SELECT 1")


# ---------------------------------------------------------------- a store that cannot be used


def test_missing_directories_and_directories(tmp_path: Path) -> None:
    pipeline = Pipeline().stage("s", lambda: 1).through(x=int)
    with pytest.raises(StoreUnwritable, match="does not exist"):
        pipeline.run(name="r", store=tmp_path / "no" / "sweep.db")
    with pytest.raises(StoreUnwritable, match="is a directory"):
        pipeline.run(name="r", store=tmp_path)
    with pytest.raises(StoreError, match="there is no store"):
        open_store(tmp_path / "none.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store(store_path: Path) -> None:
    Pipeline().stage("s", lambda: 1).through(x=int).run(name="r")
    store_path.chmod(0o444)
    with pytest.raises(StoreUnwritable, match=r"sweep\.db"):
        Pipeline().stage("s", lambda: 1).through(x=int).run(name="r")


def test_no_database(store_path: Path) -> None:
    store_path.write_text("hello " * 1000)
    with pytest.raises(StoreCorrupt, match=r"sweep\.db"):
        Pipeline().stage("s", lambda: 1).through(x=int).run(name="r")
    assert store_path.read_text().startswith("hello")


def test_another_programs_database(store_path: Path) -> None:
    with sqlite3.connect(store_path) as connection:
        connection.execute("CREATE TABLE mine(x)")
    connection.close()
    with pytest.raises(StoreCorrupt, match="not a store of sweep"):
        Pipeline().stage("s", lambda: 1).through(x=int).run(name="r")
    assert rows(store_path, "SELECT name FROM sqlite_master") == [("mine",)]


def test_a_newer_schema(store_path: Path) -> None:
    Pipeline().stage("s", lambda: 1).through(x=int).run(name="r")
    with sqlite3.connect(store_path) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreTooNew, match="upgrade"):
        Pipeline().stage("s", lambda: 1).through(x=int).run(name="r")


@pytest.mark.parametrize("damage", ["{", '{"x": "text"}', '{"y": 1}', '{"x":{"$":"nonsense"}}'])
def test_a_damaged_row_names_its_place(store_path: Path, damage: str) -> None:
    pipeline = Pipeline().stage("s", lambda: 1).through(x=int).stage("end", _crash)
    with pytest.raises(Crash):
        pipeline.run(name="r")
    with sqlite3.connect(store_path) as connection:
        connection.execute("UPDATE journal SET value=? WHERE key='s'", (damage,))
    connection.close()
    with pytest.raises(SweepError) as caught:
        pipeline.run(name="r")
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert "'s'" in told or "stage 'r/s'" in told, told


def test_a_run_that_fails_says_how_to_go_on_once_and_only_where_something_is_kept(store_path: Path) -> None:
    def fail() -> int:
        raise OSError("no weather")

    broken = Pipeline().stage("fail", fail).through(x=int)
    with pytest.raises(OSError, match="no weather") as caught:
        Pipeline().stage("inner", broken).run(name="work")
    said = [note for note in caught.value.__notes__ if "sweep resume" in note]
    assert said == [f"what was finished is kept; go on, once this is mended: sweep resume 1 --store {store_path}"]
    with pytest.raises(OSError, match="no weather") as caught:
        broken.run()
    assert not any("sweep resume" in note for note in caught.value.__notes__)


def test_a_missing_blob_names_its_place(store_path: Path) -> None:
    pipeline = Pipeline().stage("s", lambda: np.arange(5000.0)).through(x=np.ndarray).stage("end", _crash)
    with pytest.raises(Crash):
        pipeline.run(name="r")
    (blob,) = [path for path in (store_path.parent / "sweep.db.d" / "blobs").rglob("*") if path.is_file()]
    blob.unlink()
    with pytest.raises(StoreCorrupt, match="'s'"):
        pipeline.run(name="r")


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Set how large files may grow; SIGXFSZ is ignored by Python, so that writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_earlier_work_kept(store_path: Path, small_disk: Callable[[int], None]) -> None:
    log = Log()

    def grow(i: int) -> dict[str, Any]:
        log.append(i)
        return {"text": "x" * 50_000, "i": i + 1}

    pipeline = Pipeline(i=int).loop_while(lambda s: s.i < 12).stage("grow", grow).through(text=str).end_loop()
    small_disk(400_000)
    try:
        with pytest.raises(StoreUnwritable, match="what was finished before is kept"):
            pipeline.run(i=0, name="r")
    finally:
        small_disk(resource.RLIM_INFINITY)
    cut = len(log)
    assert 1 < cut < 12
    assert pipeline.run(i=0, name="r").i == 12
    assert log == [*range(cut), *range(cut - 1, 12)]


# ---------------------------------------------------------------- schema


def test_schema_and_ddl_are_the_same(tmp_path: Path) -> None:
    from sweep.store.schema import create_tables

    def shape(path: Path) -> dict[str, Any]:
        with sqlite3.connect(path) as connection:
            found: dict[str, Any] = {}
            for (table,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%'"
            ):
                columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
                indices = {}
                for _, name, unique, origin, _ in connection.execute(f"PRAGMA index_list({table})").fetchall():
                    names = [row[2] for row in connection.execute(f"PRAGMA index_info({name})")]
                    indices[(origin, unique, tuple(names))] = 1
                wr = (
                    "WITHOUT ROWID"
                    in str(
                        connection.execute("SELECT sql FROM sqlite_master WHERE name=?", (table,)).fetchone()[0]
                    ).upper()
                )
                found[table] = ([(c[1], c[2].upper().split("(")[0], c[5]) for c in columns], indices, wr)
        connection.close()
        return found

    Store(tmp_path / "ddl.db").close()
    create_tables(f"sqlite:///{tmp_path / 'orm.db'}")
    ours, theirs = shape(tmp_path / "ddl.db"), shape(tmp_path / "orm.db")
    assert set(ours) == set(theirs)
    for table in ours:
        ours_names = [column[0] for column in ours[table][0]]
        assert ours_names == [column[0] for column in theirs[table][0]], table
        assert {k[1:] for k in ours[table][1] if k[0] == "c"} == {k[1:] for k in theirs[table][1] if k[0] == "c"}, table
        assert ours[table][2] == theirs[table][2], table


def test_a_run_says_how_it_was_entered(store_path: Path) -> None:
    Pipeline().stage("s", lambda: 1).through(x=int).run(name="r")
    ((entry,),) = rows(store_path, "SELECT entry FROM run")
    assert json.loads(entry)["kind"] in ("script", "notebook")


def test_impossible_names(store_path: Path) -> None:
    for name in ("a/b", "a#2", "", " a"):
        with pytest.raises(ContractError):
            Pipeline().stage("s", lambda: 1).through(x=int).run(name=name)


def test_children_are_found_below(store_path: Path) -> None:
    class Child(Experiment):
        n: int = 0

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("s", lambda n: n).through(x=int)

    async def two() -> int:
        return sum([(await Child(n=n).run()).value for n in (1, 2)])

    assert Pipeline().stage("both", two).through(y=int).run(name="r").y == 3
    with open_store(store_path) as store:
        root = find_run(store, "r")
        assert [row.place for row in children(store, root.id)] == ["both/Child", "both/Child#2"]
        assert find_run(store, "r/both/Child#2").status is Status.COMPLETED
