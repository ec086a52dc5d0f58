"""How the simulated executor's loop and threads take turns: none computes beside another, however long it takes."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import current_token

from sweep.context import Context
from sweep.executors.base import Task
from sweep.executors.baton import Baton
from sweep.executors.simulated import SimulatedExecutor
from sweep.testing.executors import RecordingSession
from sweep.threads import call_in_loop


@pytest.mark.anyio
async def test_what_a_thread_posts_is_called_by_whoever_waits_for_it_else_by_the_loop() -> None:
    baton, heard, token = Baton(), list[tuple[str, int]](), current_token()

    def say(word: str, after: float) -> None:
        time.sleep(after)
        baton.post(token, lambda: heard.append((word, threading.get_ident())))

    def begin(word: str, after: float) -> threading.Thread:
        thread = threading.Thread(target=say, args=(word, after))
        thread.start()
        return thread

    begin("early", 0.0).join()
    await anyio.sleep(0.001)
    assert [word for word, _ in heard] == ["early"], "nobody waited: the loop has called it"
    second = begin("awaited", 0.01)
    baton.wait(5.0)
    assert [word for word, _ in heard] == ["early", "awaited"]
    third = begin("late", 0.03)
    baton.wait(0.001)
    assert len(heard) == 2, "its patience was over"
    second.join()
    third.join()
    await anyio.sleep(0.001)
    assert [word for word, _ in heard] == ["early", "awaited", "late"]
    assert {thread for _, thread in heard} == {threading.get_ident()}


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [0.0, 0.004, 0.03])
async def test_objectives_compute_one_after_the_other(seconds: float) -> None:
    """In the order of virtual time, also where one takes longer than the loop waits for it."""
    inside, order = list[int](), list[tuple[int, int]]()

    def objective(number: int, ctx: Context) -> None:
        for step in (1, 2):
            inside.append(number)
            if number == 0:
                time.sleep(seconds)
            assert inside == [number], "two compute at one moment"
            order.append((step, number))
            inside.pop()
            ctx.save(step)
            ctx.report(step, loss=0.0)

    executor = SimulatedExecutor(4, lambda params, step: 1.0 + params["number"] / 10)
    async with executor.open(), anyio.create_task_group() as group:
        for number in range(4):
            task = Task(objective, {"number": number}, "ctx", facts={"trial": number})
            group.start_soon(executor.run, task, RecordingSession())
    assert order == [(step, number) for step in (1, 2) for number in range(4)]


def test_coroutines_use_the_loops_of_their_threads_again_and_leave_nothing_in_them() -> None:
    loops, left = list[Any](), list[asyncio.Task[None]]()

    async def objective(leaves: bool, ctx: Context) -> None:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        if leaves:
            left.append(asyncio.create_task(asyncio.sleep(60)))
        ctx.report(1, loss=0.0)

    executor = SimulatedExecutor(2, lambda params, step: 1.0)

    async def main() -> None:
        async with executor.open():
            for leaves in (False, False, True, False):
                await executor.run(Task(objective, {"leaves": leaves}, "ctx"), RecordingSession())

    anyio.run(main)
    assert loops[0] is loops[1] is loops[2]
    assert loops[3] is not loops[2], "a loop that something is left in serves no other"
    assert left[0].cancelled()
    assert all(loop.is_closed() for loop in loops)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_sync_objective_that_runs_something_in_the_loop_does_not_wait_for_itself(backend: str) -> None:
    async def double(x: int) -> int:
        await anyio.sleep(0.001)
        return 2 * x

    executor = SimulatedExecutor(1, lambda params, step: 1.0)
    task = Task(lambda x: call_in_loop(double, x), {"x": 4})
    began = time.monotonic()
    assert anyio.run(partial(executor.run, task, RecordingSession()), backend=backend) == 8
    assert time.monotonic() - began < 5
