"""Random trees of loops, branches, maps and parallel stages, against a plain Python model of the same tree.

The model computes the last State by itself. A run killed before or after any of its commits, and resumed,
comes to the same State, and no stage or item whose outcome was committed runs again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from dying import Deaths, Killed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sweep import Context, Pipeline, State
from sweep.store.writer import open_store

FIELDS = ("a", "b", "c")
START = {"a": 4, "b": 5, "c": 7}
MODULUS = 101

Values = dict[str, Any]


@dataclass(frozen=True)
class Assign:
    """``target = (source * factor + 1) % MODULUS``."""

    target: str
    source: str
    factor: int
    is_async: bool


@dataclass(frozen=True)
class Repeat:
    """A loop of so many rounds."""

    rounds: int
    body: tuple[Any, ...]


@dataclass(frozen=True)
class Choose:
    """A branch by the parity of a field; ``otherwise`` may be empty."""

    source: str
    then: tuple[Any, ...]
    otherwise: tuple[Any, ...]


@dataclass(frozen=True)
class Each:
    """A map over ``range(count)`` whose results, added up, are assigned; items are functions or pipelines."""

    target: str
    source: str
    count: int
    concurrency: int
    whole: bool
    fails_at: int | None


@dataclass(frozen=True)
class Both:
    """Parallel stages: an assignment beside a sub-pipeline that loops."""

    first: str
    second: str
    rounds: int


def trees() -> st.SearchStrategy[tuple[Any, ...]]:
    """Return small programs."""
    field = st.sampled_from(FIELDS)
    leaf = st.one_of(
        st.builds(Assign, field, field, st.integers(2, 5), st.booleans()),
        st.builds(
            Each, field, field, st.integers(0, 3), st.integers(1, 3), st.booleans(), st.none() | st.integers(0, 2)
        ),
        st.permutations(FIELDS).flatmap(
            lambda names: st.builds(Both, st.just(names[0]), st.just(names[1]), st.integers(1, 2))
        ),
    )

    def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        body = st.lists(inner, min_size=1, max_size=2).map(tuple)
        return st.builds(Repeat, st.integers(0, 2), body) | st.builds(Choose, field, body, body | st.just(()))

    return st.lists(st.recursive(leaf, deeper, max_leaves=3), min_size=1, max_size=3).map(tuple)


# ---------------------------------------------------------------- the model


def modelled(nodes: tuple[Any, ...], values: Values) -> Values:
    """Return the fields after a program, in plain Python."""
    for node in nodes:
        if isinstance(node, Assign):
            values = {**values, node.target: (values[node.source] * node.factor + 1) % MODULUS}
        elif isinstance(node, Repeat):
            for _ in range(node.rounds):
                values = modelled(node.body, values)
        elif isinstance(node, Choose):
            values = modelled(node.then if values[node.source] % 2 else node.otherwise, values)
        elif isinstance(node, Each):
            results = [values[node.source] * item + 1 for item in range(node.count) if item != node.fails_at]
            values = {**values, node.target: sum(results) % MODULUS}
        else:
            second = values[node.second]
            for _ in range(node.rounds):
                second = (second * 2 + 1) % MODULUS
            values = {**values, node.first: (values[node.first] + 1) % MODULUS, node.second: second}
    return values


# ---------------------------------------------------------------- the pipeline


class Builder:
    """Makes a pipeline of a program; its stages note the paths at which they begin."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.began: list[str] = []

    def whole(self, nodes: tuple[Any, ...]) -> Pipeline:
        """Return the pipeline of a program."""
        return self.nodes(Pipeline(**dict.fromkeys(FIELDS, int)), nodes)

    def nodes(self, pipeline: Pipeline, nodes: tuple[Any, ...]) -> Pipeline:
        """Add a program."""
        for node in nodes:
            pipeline = self.node(pipeline, node)
        return pipeline

    def node(self, pipeline: Pipeline, node: Any) -> Pipeline:
        """Add one node."""
        number = next(self.numbers)
        if isinstance(node, Assign):
            step = self.sync_or_async(lambda s: (s[node.source] * node.factor + 1) % MODULUS, node.is_async)
            return pipeline.stage(f"assign{number}", step).through(**{node.target: int})
        if isinstance(node, Repeat):
            return self.loop(pipeline, f"i{number}", node.rounds, lambda inside: self.nodes(inside, node.body))
        if isinstance(node, Choose):
            then, otherwise = self.nodes(Pipeline(), node.then), self.nodes(Pipeline(), node.otherwise)
            return pipeline.branch(
                lambda s: s[node.source] % 2, then, otherwise if node.otherwise else None, name=f"way{number}"
            )
        return self.each(pipeline, node, number) if isinstance(node, Each) else self.both(pipeline, node, number)

    def loop(self, pipeline: Pipeline, counter: str, rounds: int, body: Callable[[Pipeline], Pipeline]) -> Pipeline:
        """Add a loop with its counter."""
        pipeline = pipeline.stage(f"start-{counter}", self.sync_or_async(lambda s: 0, True)).through(**{counter: int})
        pipeline = body(pipeline.loop_while(lambda s: s[counter] < rounds, name=f"loop-{counter}"))
        step = self.sync_or_async(lambda s: s[counter] + 1, True)
        return pipeline.stage(f"next-{counter}", step).through(**{counter: int}).end_loop()

    def each(self, pipeline: Pipeline, node: Each, number: int) -> Pipeline:
        """Add a map with the stages that make its items and add up its results."""
        items, results, factor = f"items{number}", f"results{number}", f"factor{number}"

        async def work(item: int, ctx: Context, by: int) -> int:
            self.began.append(ctx.path)
            await anyio.lowlevel.checkpoint()
            if item == node.fails_at:
                raise ValueError(item)
            return by * item + 1

        what: Any = work
        if node.whole:
            what = Pipeline(item=int, by=int).stage("first", work).through(half=int)
            what = what.stage("second", self.sync_or_async(lambda s: s.half, True)).through(done=int)
        pipeline = pipeline.stage(f"make{number}", self.sync_or_async(lambda s: list(range(node.count)), True))
        pipeline = pipeline.through(**{items: list[int]})
        pipeline = pipeline.stage(f"by{number}", self.sync_or_async(lambda s: s[node.source], True))
        pipeline = pipeline.through(by=int)
        pipeline = pipeline.map(f"map{number}", what, over=items, concurrency=node.concurrency, on_failure="continue")
        pipeline = pipeline.through(**{results: list[int | None]})
        total = self.sync_or_async(lambda s: sum(one or 0 for one in s[results]) % MODULUS, True)
        del factor
        return pipeline.stage(f"sum{number}", total).through(**{node.target: int})

    def both(self, pipeline: Pipeline, node: Both, number: int) -> Pipeline:
        """Add parallel stages."""
        first = Pipeline(**{node.first: int}).stage(
            f"one{number}", self.sync_or_async(lambda s: (s[node.first] + 1) % MODULUS, False)
        )
        step = self.sync_or_async(lambda s: (s[node.second] * 2 + 1) % MODULUS, True)
        second = self.loop(
            Pipeline(**{node.second: int}),
            f"j{number}",
            node.rounds,
            lambda inside: inside.stage(f"twice{number}", step).through(**{node.second: int}),
        )
        return pipeline.parallel(**{f"left{number}": first.through(**{node.first: int}), f"right{number}": second})

    def sync_or_async(self, compute: Callable[[Any], Any], is_async: bool) -> Callable[..., Any]:
        """Return a stage's function."""

        def step(state: State, ctx: Context) -> Any:
            self.began.append(ctx.path)
            return compute(state)

        async def async_step(state: State, ctx: Context) -> Any:
            await anyio.lowlevel.checkpoint()
            return step(state, ctx)

        return async_step if is_async else step


def fields(state: Mapping[str, Any]) -> Values:
    """Return the program's fields of a State."""
    return {name: state[name] for name in FIELDS}


def committed(store: Path, name: str) -> set[str]:
    """Return the paths whose outcome is in the store."""
    with open_store(store) as opened:
        query = "SELECT j.key FROM journal j JOIN run r ON r.id=j.run_id WHERE r.name=? AND j.kind IN ('stage','done')"
        return {f"{name}/{row[0]}" for row in opened.rows(query, (name,))}


def covers(done: set[str], path: str) -> bool:
    """Whether a path, or one above it, is among those done."""
    marks = (index for index, mark in enumerate(path) if mark in "/[")
    return path in done or any(path[:index] in done for index in marks)


def deaths_of(count: int) -> Iterator[tuple[int, bool]]:
    """Yield where a run is killed: around each of its commits, of many around every so many-th."""
    step = max(1, count // 12)
    for at in range(1, count + 1, step):
        yield at, False
        yield at, True


# ---------------------------------------------------------------- the properties


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nodes=trees())
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program_runs_as_its_model(nodes: tuple[Any, ...], backend: str) -> None:
    pipeline = Builder().whole(nodes)

    async def main() -> State:
        return await pipeline.run(START)

    assert fields(anyio.run(main, backend=backend)) == modelled(nodes, START)


SHAPES = (
    (
        Repeat(2, (Choose("a", (Assign("a", "b", 3, True),), (Assign("a", "a", 3, False), Assign("b", "a", 2, True))),)),
        Each("c", "a", 3, 2, True, 1),
        Both("a", "c", 2),
    ),
    (Choose("a", (Each("a", "b", 2, 2, False, None),), (Repeat(1, (Each("a", "b", 3, 1, False, 2),)),)),),
)


@example(nodes=SHAPES[0])
@example(nodes=SHAPES[1])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nodes=trees())
def test_killed_at_any_commit_it_comes_to_the_same_and_repeats_nothing(
    nodes: tuple[Any, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("runs") / "sweep.db"
    builder = Builder()
    pipeline, expected = builder.whole(nodes), modelled(nodes, START)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_QUIET", "1")
        deaths = Deaths(patch)
        assert fields(deaths.run(lambda: pipeline.run(START, name="whole", store=store))) == expected
        every = {path.removeprefix("whole") for path in builder.began}
        for at, after in deaths_of(deaths.count):
            name = f"run-{at}-{after}"
            builder.began.clear()
            killed = deaths.run(lambda name=name: pipeline.run(START, name=name, store=store), at=at, after=after)
            assert isinstance(killed, Killed)
            before, done = list(builder.began), committed(store, name)
            builder.began.clear()
            assert fields(pipeline.run(START, name=name, store=store, resume="auto" if at == 1 else "must")) == expected
            again = [path for path in builder.began if covers(done, path)]
            assert again == []
            assert {path.removeprefix(name) for path in before + builder.began} == every
