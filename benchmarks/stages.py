"""What a stage of a pipeline costs, beside a bare await, a bare commit and other engines."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from measure import Cost, Row, Watch, cost_of, have, least, repeated, times

from sweep import Pipeline, State

STAGES, DBOS_STEPS, DBOS_ENTRIES, GRAPH_ITEMS = 200, 40, 400, 1_000


async def step(x: int) -> int:
    return x + 1


def chain(watch: Watch, found: list[Cost], **hooks: Any) -> Pipeline:
    """A pipeline of ``STAGES`` stages between two marks, so that its build is not measured."""

    async def begin() -> None:
        watch.start()

    async def end() -> None:
        found.append(watch.read())

    pipeline = Pipeline(x=int).stage("begin", begin, checkpoint=False)
    for number in range(STAGES):
        pipeline = pipeline.stage(f"step{number}", step).through(x=int, **hooks)
    return pipeline.stage("end", end, checkpoint=False)


def stage_cost(place: Path | None, rounds: int, **hooks: Any) -> Cost:
    """Return the cost of one stage, kept in a store or not."""
    watch, found = Watch(), list[Cost]()
    pipeline = chain(watch, found, **hooks)
    for number in range(rounds):
        if place is None:
            pipeline.run(x=0)
        else:
            pipeline.run(x=0, name=f"chain{number}", store=place / "stages.db")
    return repeated(iter(found).__next__, rounds) / STAGES


def bare_await(rounds: int, timeout: float | None = None) -> Cost:
    """Return the cost of awaiting the function, in ``asyncio.timeout`` where there is a timeout."""

    async def main() -> Cost:
        watch, x = Watch(), 0
        for _ in range(STAGES):
            if timeout is None:
                x = await step(x)
            else:
                async with asyncio.timeout(timeout):
                    x = await step(x)
        return watch.read()

    return repeated(lambda: asyncio.run(main()), rounds) / STAGES


def bare_commit(place: Path, rounds: int) -> Cost:
    """Return the cost of one insert in a transaction of its own: WAL, synchronous NORMAL."""
    connection = sqlite3.connect(place / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE journal(run INTEGER, key TEXT, value TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID")

    def once(first: int) -> Cost:
        watch = Watch()
        for number in range(STAGES):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO journal VALUES (?,?,?)", (first, f"step{number}", '{"x":1}'))
            connection.execute("COMMIT")
        return watch.read()

    runs = iter(range(rounds))
    found = repeated(lambda: once(next(runs)), rounds) / STAGES
    connection.close()
    return found


def graph_step(rounds: int) -> Cost | None:
    """Return what pydantic-graph takes for one node, nothing kept."""
    if not have("pydantic_graph"):
        return None
    from pydantic_graph import GraphBuilder, StepContext

    async def node(ctx: StepContext[None, None, int]) -> int:
        return await step(ctx.inputs)

    builder = GraphBuilder(input_type=int, output_type=int)
    nodes = [builder.start_node, *(builder.step(node, node_id=f"step{number}") for number in range(STAGES)), builder.end_node]
    builder.add(*(builder.edge_from(one).to(other) for one, other in pairwise(nodes)))
    graph = builder.build()

    async def main() -> Cost:
        watch = Watch()
        await graph.run(inputs=0)
        return watch.read()

    return repeated(lambda: asyncio.run(main()), rounds) / STAGES


def graph_item(rounds: int) -> Cost | None:
    """Return what pydantic-graph takes for one item that is spread to a node and gathered in a list, nothing kept."""
    if not have("pydantic_graph"):
        return None
    from pydantic_graph import GraphBuilder, StepContext, reduce_list_append

    async def items(ctx: StepContext[None, None, int]) -> list[int]:
        return list(range(ctx.inputs))

    async def node(ctx: StepContext[None, None, int]) -> int:
        return await step(ctx.inputs)

    builder = GraphBuilder(input_type=int, output_type=list[int])
    source, item = builder.step(items, node_id="items"), builder.step(node, node_id="item")
    join = builder.join(reduce_list_append, initial_factory=list[int])
    builder.add(
        builder.edge_from(builder.start_node).to(source),
        builder.edge_from(source).map().to(item),
        builder.edge_from(item).to(join),
        builder.edge_from(join).to(builder.end_node),
    )
    graph = builder.build()
    return repeated(lambda: cost_of(lambda: asyncio.run(graph.run(inputs=GRAPH_ITEMS))), rounds) / GRAPH_ITEMS


class Peer(NamedTuple):
    """What DBOS on SQLite takes: for a step, for one of 100 steps gathered at once, for an entry of a resume."""

    step: Cost
    item: Cost
    entry: Cost


def dbos_costs(place: Path, rounds: int) -> Peer | None:
    """Measure DBOS, if it is installed; clocks are read inside its workflows, so that its queue's polling is not counted."""
    if not have("dbos"):
        return None
    from dbos import DBOS, SetWorkflowID

    url = f"sqlite:///{place / 'dbos.db'}"
    DBOS(config={"name": "bench", "system_database_url": url, "run_admin_server": False, "log_level": "CRITICAL"})
    kept, broken, resumed = DBOS.step()(step), [True], list[Cost]()

    @DBOS.workflow()
    async def chained() -> list[float]:
        watch, x = Watch(), 0
        for _ in range(DBOS_STEPS):
            x = await kept(x)
        return list(watch.read())

    @DBOS.workflow()
    async def gathered() -> list[float]:
        watch = Watch()
        await asyncio.gather(*(kept(x) for x in range(100)))
        return list(watch.read())

    @DBOS.workflow()
    async def long() -> int:
        watch, x = Watch(), 0
        for _ in range(DBOS_ENTRIES):
            x = await kept(x)
        if broken[0]:
            await DBOS.cancel_workflow_async(str(DBOS.workflow_id))
            await kept(x)  # cut here
        resumed.append(watch.read())
        return x

    async def main() -> Peer:
        steps = [Cost(*await chained()) for _ in range(rounds)]
        items = [Cost(*await gathered()) for _ in range(rounds)]
        for number in range(3):
            broken[0] = True
            with contextlib.suppress(BaseException), SetWorkflowID(f"long{number}"):
                await long()
            broken[0] = False
            await (await DBOS.resume_workflow_async(f"long{number}")).get_result()
        return Peer(least(steps) / DBOS_STEPS, least(items) / 100, least(resumed) / DBOS_ENTRIES)

    with contextlib.redirect_stdout(None):
        DBOS.launch()
        found = asyncio.run(main())
        DBOS.destroy()
    return found


def counting(count: int, seen: Callable[[int], None] = lambda x: None) -> Pipeline:
    """A loop of ``count`` kept stages; ``seen`` is told where it stands."""

    def goes_on(state: State) -> bool:
        seen(state.x)
        return bool(state.x < count)

    return Pipeline(x=int).loop_while(goes_on).stage("step", step).through(x=int).end_loop()


def memory_row(place: Path, quick: bool) -> Row:
    """Return how the peak of memory grows with the number of stages run."""
    few, many = (100, 1_000) if quick else (1_000, 10_000)

    def peak(count: int) -> int:
        pipeline = counting(count, lambda x: tracemalloc.reset_peak() if x == 10 else None)
        tracemalloc.start()
        pipeline.run(x=0, name=f"memory{count}", store=place / "memory.db")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(20)  # what the first run imports
    low, high = peak(few), peak(many)
    grown = (high - low) / (many - few)
    figure = f"memory of a loop of {few:,} and of {many:,} kept stages, at its peak"
    return Row(figure, f"{low / 1024:.0f} KiB, {high / 1024:.0f} KiB", f"{grown:.1f} bytes per stage more", "flat", grown < 8)


def map_memory_row() -> Row:
    """Return how the peak of memory grows with the items of a map over a generator, whose results nobody asks for.

    What is left is the ordered list of results: one pointer (8 bytes) an item. A contract keeps what it asks for besides.
    """
    few, many = 2_000, 20_000

    async def consume(x: int) -> None: ...

    pipeline = Pipeline(xs=Iterator[int]).map("each", consume, over="xs", concurrency=100)

    def items(count: int) -> Iterator[int]:
        for number in range(count):
            if number == few // 2:
                tracemalloc.reset_peak()
            yield number

    def peak(count: int) -> int:
        tracemalloc.start()
        pipeline.run(xs=items(count))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(few)  # what the first run imports
    low, high = peak(few), peak(many)
    grown = (high - low) / (many - few)
    figure = f"memory of a map over {few:,} and over {many:,} generated items, at its peak"
    beside = f"{grown:.1f} bytes per item more (a pointer in the list of results: 8)"
    return Row(figure, f"{low / 1024:.0f} KiB, {high / 1024:.0f} KiB", beside, "flat but for results", grown < 16)


def map_rows(place: Path, quick: bool, dbos: Peer | None) -> list[Row]:
    """Return how many items a second a map over async items takes, plain and kept, 100 at once."""
    count, rounds = (500, 1) if quick else (10_000, 3)
    pipeline = Pipeline(xs=list[int]).map("each", step, over="xs", concurrency=100).through(ys=list[int])
    names = iter(range(100))

    def kept() -> None:
        pipeline.run(xs=list(range(count)), name=f"map{next(names)}", store=place / "map.db")

    async def pulled() -> None:
        items = iter(range(count))

        async def worker() -> None:
            for item in items:
                await step(item)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(100):
                tasks.create_task(worker())

    bare = repeated(lambda: cost_of(lambda: asyncio.run(pulled())), rounds) / count
    plain = repeated(lambda: cost_of(lambda: pipeline.run(xs=list(range(count)))), rounds) / count
    stored = repeated(lambda: cost_of(kept), rounds) / count

    def row(figure: str, cost: Cost, beside: list[str], least: int) -> Row:
        speed, told = 1 / cost.wall, "; ".join([f"{1 / cost.wall:,.0f}/s by the clock", *beside])
        return Row(f"{figure} of a map over {count:,} items", cost.text(), told, f">= {least:,}/s", speed >= least)

    graph = graph_item(rounds)
    beside = [f"bare asyncio workers {bare.text()}"]
    beside += [] if graph is None else [f"pydantic-graph ({GRAPH_ITEMS:,} items) {graph.text()}: {times(plain, graph)}"]
    kept_beside = [] if dbos is None else [f"DBOS, 100 gathered steps {dbos.item.text()}: {times(stored, dbos.item)}"]
    return [
        row("plain item", plain, beside, 50_000),
        row("kept item", stored, kept_beside, 5_000),
        map_memory_row(),
    ]


def bare_loop(count: int) -> Cost:
    """Return what the loop itself costs where nothing is kept, so that all of it runs again."""

    async def main() -> None:
        x = 0
        while x < count:
            x = await step(x)

    return cost_of(lambda: asyncio.run(main()))


def resume_rows(place: Path, quick: bool, dbos: Peer | None) -> list[Row]:
    """Return how long runs with many entries, of a loop and of a map, take to come back to what failed."""
    count = 2_000 if quick else 100_000
    watch, found, broken = Watch(), list[Cost](), [True]

    async def last(x: int) -> None:
        if broken[0]:
            raise RuntimeError("the crash")
        found.append(watch.read())

    async def item(x: int) -> int:
        if x == count - 1:
            await last(x)
        return x

    looped = counting(count).stage("last", last)
    mapped = Pipeline(xs=list[int]).map("each", item, over="xs").through(ys=list[int])
    inputs: dict[str, dict[str, Any]] = {"loop": {"x": 0}, "map": {"xs": list(range(count))}}

    def row(kind: str, pipeline: Pipeline, beside: list[str]) -> Row:
        def run() -> None:
            pipeline.run(**inputs[kind], name=kind, store=place / f"long-{kind}.db")

        broken[0] = True
        with contextlib.suppress(RuntimeError):
            run()
        costs = []
        for _ in range(2):  # as far as the failure: all but the first step of what a resume does
            watch.start()
            with contextlib.suppress(RuntimeError):
                run()
            costs.append(watch.read())
        broken[0] = False
        watch.start()
        run()
        cost = least([*costs, found.pop()])
        told = "; ".join([f"{cost.wall / count * 1e6:.3g} us an entry", *beside])
        return Row(f"resume of a {kind} with {count:,} entries", cost.text("s"), told, "< 1 s", cost.wall < 1)

    floor = bare_loop(count)
    peers = [f"bare loop, run again from its start {floor.text('s')}"]
    peers += [] if dbos is None else [f"DBOS ({DBOS_ENTRIES} entries) {dbos.entry.text()} an entry"]
    return [row("loop", looped, peers), row("map", mapped, [])]


def rows(place: Path, quick: bool) -> list[Row]:
    """Return the rows about stages."""
    rounds = 3 if quick else 30
    awaited, limited, commit = bare_await(rounds), bare_await(rounds, 60), bare_commit(place, rounds)
    plain, timed = stage_cost(None, rounds), stage_cost(None, rounds, timeout=60)
    kept = stage_cost(place, rounds)
    over, over_timed, over_kept = plain.less(awaited), timed.less(awaited), kept.less(commit)
    beside = [f"bare await {awaited.text()}"]
    graph, dbos = graph_step(rounds), dbos_costs(place, max(2, rounds // 6))
    if graph is not None:
        beside.append(f"pydantic-graph {graph.text()}: {times(plain, graph)}")
    beside_kept = [f"bare WAL commit {commit.text()}"]
    if dbos is not None:
        beside_kept.append(f"DBOS {dbos.step.text()}: {times(kept, dbos.step)}")

    def row(figure: str, cost: Cost, beside: list[str], limit: float) -> Row:
        return Row(figure, cost.text(), "; ".join(beside), f"CPU <= {limit:g} us", cost.cpu <= limit / 1e6)

    return [
        row("plain async stage with a contract, over a bare await", over, beside, 20),
        row("the same with timeout=60", over_timed, [f"asyncio.timeout {limited.text()}"], 40),
        row("checkpointed stage, over one commit", over_kept, beside_kept, 40),
        *map_rows(place, quick, dbos),
        memory_row(place, quick),
        *resume_rows(place, quick, dbos),
    ]
