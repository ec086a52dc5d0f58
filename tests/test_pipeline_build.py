"""What a pipeline says before anything runs: binding, inputs, types, hooks, drawing."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypedDict

import pytest
from pydantic import BaseModel

from sweep import Cache, Context, Pipeline, Resources, Retry, State, ref
from sweep.errors import ContractError


class Batch(BaseModel):
    size: int
    data: list[float]


@dataclass
class Report:
    loss: float


class Typed(TypedDict):
    loss: float


class Text(TypedDict):
    x: str


class Sized(Protocol):
    size: int


class Pair(NamedTuple):
    left: int
    right: int


def problems(make: Callable[[], Any]) -> list[str]:
    """Every problem that building or checking finds."""
    with pytest.raises(ContractError) as caught:
        make()
    return caught.value.problems


def give(value: Any) -> Callable[[], Any]:
    return lambda: value


# ---------------------------------------------------------------- inputs


def test_what_nothing_gives_is_an_input() -> None:
    def train(lr: float, steps: int = 3) -> float:
        return lr * steps

    pipeline = Pipeline().stage("train", train).through(loss=float)
    assert pipeline.inputs == {"lr": float}
    assert pipeline.outputs == {"loss": float}
    assert pipeline.run(lr=2).loss == 6


def test_declared_inputs_close_the_list() -> None:
    def train(lr: float, momentum: float) -> float:
        return lr + momentum

    (problem,) = problems(Pipeline(lr=float).stage("train", train).through(loss=float).check)
    assert "'momentum'" in problem
    assert "declared" in problem


def test_missing_and_unknown_inputs_are_named_together_before_anything_runs() -> None:
    ran = []

    def first(lr: float) -> float:
        ran.append(1)
        return lr

    pipeline = Pipeline().stage("first", first).through(y=float)
    found = problems(lambda: pipeline.run(lrr=1.0, depth=2))
    assert len(found) == 3
    assert "'lr': float is missing; did you mean 'lrr'?" in found[0]
    assert "unknown input 'lrr'; did you mean 'lr'?" in found[1]
    assert "unknown input 'depth'" in found[2]
    assert ran == []


def test_inputs_by_mapping_serve_names_that_clash() -> None:
    pipeline = Pipeline(name=str, store=int).stage("join", lambda name, store: f"{name}{store}").through(joined=str)
    assert pipeline.run({"name": "a", "store": 1}).joined == "a1"


def test_a_near_miss_of_a_given_field_is_an_error_and_a_declaration_insists() -> None:
    def use(learning_rte: float) -> float:
        return learning_rte

    base = Pipeline().stage("a", lambda: 0.1).through(learning_rate=float)
    (problem,) = problems(base.stage("use", use).through(y=float).check)
    assert "did you mean 'learning_rate'?" in problem
    insisting = Pipeline(learning_rte=float).stage("a", lambda: 0.1).through(learning_rate=float)
    assert insisting.stage("use", use).through(y=float).run(learning_rte=5).y == 5


def test_inputs_that_look_alike_are_no_near_misses_of_each_other() -> None:
    def adam(beta1: float, beta2: float) -> float:
        return beta1 - beta2

    assert list(Pipeline().stage("adam", adam).through(y=float).inputs) == ["beta1", "beta2"]


def test_one_problem_does_not_hide_the_others() -> None:
    def one() -> str:
        return "x"

    def two(count: str) -> None: ...

    def three(cuont: int, other: float = 1) -> None: ...

    pipeline = (
        Pipeline()
        .stage("one", one)
        .through(count=int)
        .stage("two", two)
        .stage("three", three, nonsense=4)
        .stage("one", one)
        .loop_while(lambda s: s.cont < 3)
        .stage("inner", lambda: 1)
        .through(inner=int)
        .end_loop()
    )
    found = problems(pipeline.check)
    assert len(found) == 6
    assert "it returns str, its contract is field 'count': int" in found[0]
    assert "parameter 'count' is str, but field 'count' from stage 'one'" in found[1]
    assert "'cuont'" in found[2]
    assert "'count'" in found[2]
    assert "'nonsense' is no hook, no type, and no parameter" in found[3]
    assert "stage 'one'" in found[4]
    assert "the name is taken" in found[4]
    assert "reads 'cont', which nobody gives; did you mean 'count'?" in found[5]
    assert all(__file__ in text for text in found)


def test_unprovable_is_an_error_only_when_strict() -> None:
    def loose() -> object:
        return [1]

    pipeline = Pipeline().stage("loose", loose).through(numbers=list[int])
    with pytest.warns(RuntimeWarning, match="cannot be proved") as said:
        pipeline.check()
    assert (said[0].filename, said[0].lineno) == (__file__, loose.__code__.co_firstlineno + 3)
    pipeline.check()  # said once
    (problem,) = problems(lambda: pipeline.check(strict=True))
    assert "cannot be proved" in problem
    assert problems(lambda: Pipeline().stage("nested", pipeline).through(numbers=list[int]).check(strict=True))


def test_the_same_warning_of_the_same_line_is_shown_once(recwarn: pytest.WarningsRecorder) -> None:
    def loose() -> object:
        return [1]

    warnings.simplefilter("default")
    for _ in range(2):
        Pipeline().stage("loose", loose).through(numbers=list[int]).check()
    assert len(recwarn) == 1


def test_an_open_loop_is_a_problem_beside_the_others_and_is_drawn() -> None:
    pipeline = Pipeline(n=int).stage("first", len).loop_while(lambda s: s.n, name="outer").stage("in", lambda n: n)
    pipeline = pipeline.loop_while(lambda s: s.n, name="inner").stage("deep", lambda n: n)
    found = problems(pipeline.check)
    assert "'obj'" in found[0]
    assert [text.split(" (")[0] for text in found[1:]] == ["loop 'outer'", "loop 'inner'"]
    assert all(text.endswith("is not closed; add .end_loop()") and __file__ in text for text in found[1:])
    assert repr(pipeline) == "Pipeline(first -> outer(in -> inner(deep)*)*)"
    (inside,) = problems(Pipeline().stage("whole", Pipeline().loop_while(bool).stage("x", lambda: 1)).check)
    assert inside.startswith("stage 'whole' (")
    with pytest.raises(ContractError, match=r"^pipeline: 3 problems"):
        pipeline.run(n=1)


def test_wrong_inputs_are_told_with_the_name_or_the_place_of_the_pipeline() -> None:
    pipeline = Pipeline().stage("f", lambda x, y: x)
    with pytest.raises(ContractError, match=r"^inputs of the pipeline \(.*test_pipeline_build.py:\d+\): 2 problems"):
        pipeline.run()
    with pytest.raises(ContractError, match=r"^inputs of 'digits' \(.*test_pipeline_build.py:\d+\): 1 problem"):
        pipeline.run(x=1, name="digits")


def apart(a: int = 1, b: int = 2, c: int = 3, /) -> int:
    return 100 * a + 10 * b + c


def test_positional_only_parameters_never_slip_into_the_place_of_one_that_is_left_out() -> None:
    assert Pipeline(a=int, b=int).stage("apart", apart).through(x=int).run(a=7, b=8).x == 783
    (problem,) = problems(Pipeline(a=int, c=int).stage("apart", apart).check)
    assert "parameter 'c' is positional-only, so it cannot be given without 'b' before it" in problem
    assert "take the `/` out of apart" in problem
    maybe = Pipeline(c=int).stage("skipped", lambda: 5, skip_if=lambda s: True).through(a=int, b=int).stage("apart", apart)
    assert "cannot be given without 'a'" in problems(maybe.check)[0]
    items = Pipeline(bs=list[int], c=int).map("each", lambda item, b=0, c=0, /: item + c, over="bs")
    assert "cannot be given without 'b'" in problems(items.check)[0]
    assert Pipeline(bs=list[int], c=int).map("each", lambda item, c=0, /: item + c, over="bs").through(x=list[int]).run(
        bs=[1, 2], c=5
    ).x == [6, 7]


def test_builtin_functions_are_refused_where_nothing_would_reach_them() -> None:
    (unread,) = problems(Pipeline().stage("most", max).check)
    assert "max does not tell its parameters" in unread
    assert "lambda x: max(x)" in unread
    (state,) = problems(Pipeline(numbers=list[int]).stage("count", len).check)
    assert "nothing gives parameter 'obj'; wrap len in a function that names the field it takes" in state
    assert Pipeline().stage("add", operator.add).through(x=int).run(a=1, b=2).x == 3
    seen: list[State] = []
    Pipeline(n=int).stage("see", seen.append).run(n=1)
    assert seen == [{"n": 1}], "a method of an object may well take the State"


def test_hooks_and_predicates_that_cannot_take_what_they_get_are_refused() -> None:
    def named(*, output: int) -> None: ...

    (found,) = problems(lambda: Pipeline().stage("a", lambda: 1, before=lambda: 1))
    assert found == "hook before=<lambda>(): it gets the State, or two arguments, by position"
    (found,) = problems(lambda: Pipeline().stage("a", lambda: 1).through(x=int, after=lambda a, b, c: 1))
    assert found == "hook after=<lambda>(a, b, c): it gets the output, or two arguments, by position"
    (found,) = problems(lambda: Pipeline().with_global_hooks(metrics=named))
    assert "named(*, output: 'int') -> 'None': it gets a mapping" in found
    assert "the predicate <lambda>(): it gets the State" in problems(lambda: Pipeline().loop_while(lambda: True))[0]
    assert "branch 'b'" in problems(lambda: Pipeline().branch(lambda: True, lambda: 1, name="b"))[0]
    fine = Pipeline().stage("a", lambda: 1, before=print, after=lambda *parts: None, profile=lambda a, b=1, c=2: None)
    fine.through(x=int, transform=max, validate=bool.__or__).check()


def test_a_wrapper_that_hides_its_parameters_is_told_of() -> None:
    def hidden(function: Callable[..., int]) -> Callable[..., int]:
        def wrapper(*args: Any, **kwargs: Any) -> int:
            return function(*args, **kwargs)

        return wrapper

    pipeline = Pipeline(x=int).stage("a", hidden(lambda x: x))
    with pytest.warns(RuntimeWarning, match=r"wrapper\(\*args, \*\*kwargs\) names no parameter.*functools.wraps"):
        pipeline.check()
    wrapped = functools.wraps(apart)(hidden(apart))
    assert Pipeline(a=int).stage("a", wrapped).through(x=int).run(a=2).x == 223


def test_a_generator_that_nobody_would_run_is_refused() -> None:
    def lines(n: int = 2) -> Iterator[int]:
        yield from range(n)

    async def later(item: int = 2) -> AsyncIterator[int]:
        yield item

    for what in (lines, later):
        (problem,) = problems(Pipeline().stage("lines", what).check)
        assert f"{what.__name__} is a generator function, of which nothing would run" in problem
    assert problems(Pipeline(xs=list[int]).map("each", later, over="xs").check)
    assert Pipeline().stage("lines", lines).through(x=list[int]).run().x == [0, 1]
    seen: list[int] = []
    Pipeline().stage("lines", lines, transform=seen.extend).run()
    assert seen == [0, 1]


def test_a_plain_dict_or_nothing_proves_nothing_and_is_no_problem_even_when_strict() -> None:
    def plain() -> dict[str, Any]:
        return {"x": 1}

    Pipeline().stage("plain", plain).through(x=int).stage("bare", lambda: 1).through(y=int).check(strict=True)


def test_a_typed_dict_is_checked_key_by_key() -> None:
    def wrong() -> Text:
        return {"x": "a"}

    (one,) = problems(Pipeline().stage("wrong", wrong).through(x=int).check)
    assert "key 'x'" in one
    first, second = problems(Pipeline().stage("wrong", wrong).through(x=int, y=int).check)
    assert "key 'x'" in first
    assert "no key 'y'" in second


def test_several_fields_need_a_mapping() -> None:
    def scalar() -> float:
        return 1.0

    (problem,) = problems(Pipeline().stage("s", scalar).through(a=int, b=int).check)
    assert "'a', 'b'" in problem


# ---------------------------------------------------------------- binding


def test_order_of_binding() -> None:
    seen: dict[str, Any] = {}

    def stage(
        ctx,
        from_field,
        setting,
        by_model: Batch,
        fallback=7,
        whole=None,
        *,
        left,  # type: ignore[no-untyped-def]
    ) -> None:
        seen.update(locals())

    def batch() -> Batch:
        return Batch(size=2, data=[1.0])

    pipeline = (
        Pipeline()
        .stage("batch", batch)
        .through(Batch)
        .stage("field", give(1))
        .through(from_field=int)
        .stage("stage", stage, setting="given")
    )
    pipeline.run()
    assert isinstance(seen["ctx"], Context)
    assert seen["from_field"] == 1
    assert seen["setting"] == "given"
    assert isinstance(seen["by_model"], Batch)
    assert seen["fallback"] == 7
    assert isinstance(seen["left"], State)
    assert seen["left"].size == 2


def test_the_context_comes_by_name_or_by_annotation_but_once() -> None:
    def annotated(anything: Context) -> str:
        return anything.path

    def other(ctx: int) -> int:
        return ctx

    def both(ctx, anything: Context) -> None: ...  # type: ignore[no-untyped-def]

    assert Pipeline().stage("a", annotated).through(where=str).run().where == "a"
    (wrong,) = problems(Pipeline().stage("other", other).through(y=int).check)
    assert "parameter 'ctx' is int, but 'ctx' is a reserved name: it gets the Context" in wrong
    assert Pipeline().stage("other", other, settings={"ctx": 3}).through(y=int).run().y == 3
    (problem,) = problems(Pipeline().stage("both", both).check)
    assert "'ctx' and 'anything'" in problem


def test_a_name_that_is_a_field_beats_the_model_of_its_annotation() -> None:
    def batch() -> Batch:
        return Batch(size=2, data=[])

    def use(size: int, data: list[float]) -> int:
        return size + len(data)

    assert Pipeline().stage("b", batch).through(Batch).stage("use", use).through(y=int).run().y == 2


def test_two_givers_of_a_model_are_both_named() -> None:
    def batch() -> Batch:
        return Batch(size=1, data=[])

    def use(it: Batch) -> None: ...

    pipeline = Pipeline().stage("a", batch).through(Batch).stage("b", batch).through(Batch).stage("use", use)
    (problem,) = problems(pipeline.check)
    assert "'a' and 'b'" in problem


@pytest.mark.parametrize(
    ("model", "value"),
    [(Typed, {"loss": 1.0}), (Report, Report(1.0)), (Pair, Pair(1, 2)), (Batch, Batch(size=1, data=[]))],
)
def test_every_kind_of_model_binds_by_annotation(model: Any, value: Any) -> None:
    def use(it: Any) -> Any:
        return it

    use.__annotations__["it"] = model
    base = Pipeline().stage("a", give(value)).through(model)
    assert base.stage("use", use).through(same=Any).run().same == value


def test_a_protocol_or_another_typed_dict_is_simply_not_given() -> None:
    def batch() -> Batch:
        return Batch(size=1, data=[])

    def sized(it: Sized) -> None: ...

    def typed(other: Typed) -> None: ...

    assert Pipeline().stage("b", batch).through(Batch).stage("s", sized).stage("t", typed).inputs == {
        "it": Sized,
        "other": Typed,
    }


def test_the_lonely_parameter_gets_the_state_unless_its_name_nearly_is_a_field() -> None:
    base = Pipeline().stage("a", give([1])).through(tasks=list[int])
    assert base.stage("b", lambda input: len(input.tasks)).through(n=int).run().n == 1
    (problem,) = problems(base.stage("b", lambda taks: len(taks)).through(n=int).check)
    assert "did you mean 'tasks'?" in problem
    assert "State" in problem

    def insisting(taks: State) -> int:
        return len(taks.tasks)

    assert base.stage("b", insisting).through(n=int).run().n == 1


def test_ref_points_to_a_field_and_a_string_does_so_only_for_init_from() -> None:
    def use(init_from: Any, other: Any, third: Any) -> list[Any]:
        return [init_from, other, third]

    pipeline = (
        Pipeline()
        .stage("a", give(1))
        .through(first=int)
        .stage("use", use)
        .through(all=list[Any], init_from="first", other=ref("first"), third="first")
    )
    assert pipeline.run().all == [1, 1, "first"]
    (problem,) = problems(pipeline.stage("x", lambda v: v, v=ref("frist")).check)
    assert "did you mean 'first'?" in problem


def test_settings_reach_keyword_parameters_and_are_type_checked_at_references() -> None:
    def use(n_trials: int, **rest: Any) -> dict[str, Any]:
        return {"got": (n_trials, rest)}

    pipeline = Pipeline().stage("use", use).through(got=tuple[int, dict[str, Any]], n_trials=50, max_time=600)
    assert pipeline.run().got == (50, {"max_time": 600})

    def number(v: int) -> int:
        return v

    (problem,) = problems(Pipeline().stage("a", give("x")).through(s=str).stage("n", number, v=ref("s")).check)
    assert "'s' is str" in problem


def test_escapes_for_names_that_clash_with_hooks() -> None:
    def use(timeout: float, cache: int) -> int:
        return int(timeout) + cache

    pipeline = (
        Pipeline()
        .stage("give", give(3))
        .through(fields={"cache": int})
        .stage("use", use, settings={"timeout": 4.0})
        .through(y=int)
    )
    assert pipeline.run().y == 7


def test_a_keyword_is_a_field_a_hook_or_a_setting_and_near_misses_of_hooks_are_told() -> None:
    (problem,) = problems(Pipeline().stage("a", give(1)).through(x=int, retyr=3).check)
    assert "did you mean 'retry'?" in problem
    (hook,) = problems(lambda: Pipeline().stage("a", give(1)).through(timeout=float))
    assert "fields={'timeout'" in hook


@pytest.mark.parametrize(
    ("hook", "value"),
    [
        ("timeout", 0), ("timeout", True), ("timeout", "1"), ("retry", -1), ("retry", True), ("retry", 1.5), ("cache", 3),
        ("checkpoint", 1), ("before", "x"), ("validate", 3), ("resources", 2), ("isolate", "thread"),
    ],
)  # fmt: skip
def test_hooks_of_the_wrong_kind_are_refused_where_they_are_written(hook: str, value: Any) -> None:
    found = problems(lambda: Pipeline().stage("a", give(1), **{hook: value}))
    assert f"hook {hook}={value!r}" in found[0]


@pytest.mark.parametrize(
    ("hook", "value"), [("timeout", 1), ("retry", Retry(2)), ("cache", Cache(ttl=1)), ("resources", Resources(cpus=1))]
)
def test_hooks_of_the_right_kind_are_taken(hook: str, value: Any) -> None:
    Pipeline().stage("a", give(1), **{hook: value}).through(x=int).check()


def test_a_hook_in_stage_and_through_is_refused() -> None:
    (problem,) = problems(lambda: Pipeline().stage("a", give(1), retry=1).through(x=int, retry=2))
    assert "'retry'" in problem


@pytest.mark.parametrize("name", ["ctx", "state", "not a name"])
def test_reserved_and_impossible_field_names(name: str) -> None:
    assert problems(lambda: Pipeline().stage("a", give(1)).through(fields={name: int}))
    assert problems(lambda: Pipeline(**{name: int}))


@pytest.mark.parametrize("name", ["", "a/b", "a#1", "a[1]", " a", 3])
def test_impossible_stage_names(name: Any) -> None:
    assert problems(lambda: Pipeline().stage(name, give(1)))


def test_misplaced_builder_calls() -> None:
    assert problems(lambda: Pipeline().through(x=int))
    assert problems(lambda: Pipeline().stage("a", give(1)).through(x=int).through(y=int))
    assert problems(Pipeline().end_loop)
    assert problems(Pipeline().loop_while(lambda s: False).stage("a", give(1)).check)
    assert problems(Pipeline().loop_while(lambda s: False).end_loop().check)
    assert problems(lambda: Pipeline().stage("a", 3))
    assert problems(lambda: Pipeline().with_global_hooks(bfore=print))


def test_skip_if_leaves_a_hole_only_where_nothing_was_before() -> None:
    def use(x: int) -> int:
        return x * 10

    skipped = Pipeline().stage("a", give(1), skip_if=lambda s: True).through(x=int)
    (problem,) = problems(skipped.stage("use", use).through(y=int).check)
    assert "skip_if" in problem
    covered = Pipeline().stage("z", give(5)).through(x=int).stage("a", give(1), skip_if=lambda s: True).through(x=int)
    assert covered.stage("use", use).through(y=int).run().y == 50

    def model() -> Batch:
        return Batch(size=1, data=[])

    def by_model(it: Batch) -> int:
        return it.size

    (other,) = problems(Pipeline().stage("m", model, skip_if=lambda s: True).through(Batch).stage("u", by_model).check)
    assert "skip_if" in other


def test_before_that_reads_the_output_is_told_where_it_belongs() -> None:
    stage = Pipeline().stage("s", give([1])).through(trials=list[int], before=lambda d: print(len(d.trials)))
    (problem,) = problems(stage.check)
    assert "'after'" in problem


def test_explicit_checkpoint_needs_a_contract_but_a_global_one_takes_what_there_is() -> None:
    (problem,) = problems(Pipeline().stage("a", give(1), checkpoint=True).check)
    assert ".through" in problem
    Pipeline().stage("a", give(1)).with_global_hooks(checkpoint=True).check()


# ---------------------------------------------------------------- loops


def test_a_loop_needs_a_start_value() -> None:
    loop = Pipeline().loop_while(lambda s: s.n < 3).stage("add", lambda n: n + 1).through(n=int).end_loop()
    (problem, *_) = problems(loop.check)
    assert "'n', which only the loop's own body gives" in problem
    started = Pipeline(n=int).loop_while(lambda s: s.n < 3).stage("add", lambda n: n + 1).through(n=int).end_loop()
    assert started.run(n=0).n == 3


def test_a_field_keeps_its_type_in_a_loop() -> None:
    loop = Pipeline(n=int).loop_while(lambda s: s.n < 3).stage("add", lambda n: n + 1).through(n=float).end_loop()
    (problem,) = problems(loop.check)
    assert "'n' is int from inputs and float from stage 'add'" in problem


def test_an_input_without_a_type_takes_that_of_the_stage_that_gives_it_later() -> None:
    pipeline = Pipeline().stage("a", lambda n, k: n + k).through(n=int)
    assert pipeline.inputs == {"n": int, "k": Any}
    assert pipeline.run(n=1, k=2).n == 3


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_limits_of_loops(limit: Any) -> None:
    assert problems(lambda: Pipeline().loop_while(lambda s: True, max_iterations=limit))


# ---------------------------------------------------------------- data


def test_every_call_returns_a_new_pipeline() -> None:
    base = Pipeline().stage("a", give(1)).through(x=int)
    one = base.stage("b", lambda x: x + 1).through(y=int)
    two = base.stage("c", lambda x: x + 2).through(z=int)
    opened = base.loop_while(lambda s: False)
    assert list(base.outputs) == ["x"]
    assert list(one.outputs) == ["x", "y"]
    assert list(two.outputs) == ["x", "z"]
    opened.stage("q", give(1)).through(q=int)
    assert problems(opened.end_loop().check)
    assert base.with_global_hooks(before=print) is not base
    assert base.run().x == 1


def test_then_joins() -> None:
    first = Pipeline(a=int).stage("one", lambda a: a + 1).through(b=int)
    second = Pipeline().stage("two", lambda b: b * 2).through(c=int)
    assert first.then(second).run(a=1).c == 4
    assert problems(lambda: first.then(Pipeline().loop_while(lambda s: False)))


def test_nested_pipelines_are_checked_with_the_outer_one() -> None:
    inner = Pipeline(x=int).stage("double", lambda x: 2 * x).through(doubled=int, other=str)
    base = Pipeline().stage("x", give(3)).through(x=str)
    found = problems(base.stage("inner", inner).through(dubled=int).check)
    assert any("parameter 'x' is int" in text for text in found)
    assert any("'dubled'; did you mean 'doubled'?" in text for text in found)
    broken = Pipeline().stage("bad", lambda: 1, nonsense=1)
    assert any("nonsense" in text for text in problems(Pipeline().stage("inner", broken).check))


def test_plan_and_drawing() -> None:
    inner = Pipeline().stage("deep", lambda tasks: len(tasks)).through(depth=int)
    pipeline = (
        Pipeline()
        .stage("init", give([1]))
        .through(tasks=list[int], retry=2)
        .loop_while(lambda s: s.index < 2, name="each", max_iterations=9)
        .stage("work", lambda index, tasks: index + 1, checkpoint=False)
        .through(index=int)
        .end_loop()
        .stage("nested", inner)
        .through(depth=int)
    )
    assert problems(pipeline.check)  # index has no start value
    pipeline = Pipeline(index=int).then(pipeline)
    lines = str(pipeline.plan()).splitlines()
    assert lines[0].startswith("init() -> tasks: list[int]")
    assert "retry" in lines[0]
    assert lines[1] == "loop each, at most 9 times:"
    assert lines[2].startswith("  work(index, tasks) -> index: int")
    assert "not kept" in lines[2]
    assert lines[4].startswith("  deep(tasks) -> depth: int")
    drawing = pipeline.to_mermaid()
    assert drawing.startswith("flowchart TD")
    assert '-->|"tasks: list[int]"|' in drawing
    assert '"again"' in drawing
    assert drawing.count("subgraph") == drawing.count("end\n") + drawing.count("end", -4) == 2
    assert repr(pipeline) == "Pipeline(init -> each(work)* -> nested)"
