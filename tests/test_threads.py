"""Worker threads: daemons, context, cancellation, the way back to the loop."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import pytest

from sweep.threads import LoopThread, WorkerThreads, call_in_loop, current_loop_thread

VAR: ContextVar[str] = ContextVar("VAR", default="unset")


async def until(condition, seconds: float = 5.0) -> None:  # type: ignore[no-untyped-def]
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.002)


@pytest.mark.anyio
async def test_runs_in_a_daemon_thread_with_arguments_and_a_copy_of_the_context() -> None:
    def work(a: int, *, b: int) -> tuple[int, str, bool, threading.Thread]:
        seen = VAR.get()
        VAR.set("changed in the thread")
        return a + b, seen, threading.current_thread().daemon, threading.current_thread()

    VAR.set("outer")
    with WorkerThreads() as threads:
        value, seen, daemon, thread = await threads.run(work, 1, b=2)
    assert (value, seen, daemon) == (3, "outer", True)
    assert thread is not threading.current_thread()
    assert VAR.get() == "outer"


@pytest.mark.anyio
async def test_exceptions_pass_through_and_stop_iteration_is_named() -> None:
    def fail(error: BaseException) -> None:
        raise error

    with WorkerThreads() as threads:
        for error in (ValueError("bad"), SystemExit(3), KeyboardInterrupt()):
            with pytest.raises(type(error)) as caught:
                await threads.run(fail, error)
            assert caught.value is error
        with pytest.raises(RuntimeError, match="fail raised StopIteration") as stopped:
            await threads.run(fail, StopIteration(1))
        assert isinstance(stopped.value.__cause__, StopIteration)


@pytest.mark.anyio
async def test_threads_grow_as_needed_are_reused_and_end_with_the_pool() -> None:
    barrier = threading.Barrier(20)
    seen: set[threading.Thread] = set()

    def meet() -> None:
        barrier.wait(5)
        seen.add(threading.current_thread())

    with WorkerThreads() as threads:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(threads.run, meet)
        assert len(seen) == 20
        for _ in range(50):
            assert await threads.run(threading.current_thread) in seen
    await until(lambda: not any(thread.is_alive() for thread in seen))
    with pytest.raises(RuntimeError, match="closed"):
        await threads.run(meet)


@pytest.mark.anyio
async def test_a_cancelled_call_is_abandoned_its_result_barred_its_thread_not_reused_before_it_ends() -> None:
    release, started = threading.Event(), threading.Event()
    calls: list[LoopThread | None] = []

    def stuck() -> threading.Thread:
        calls.append(current_loop_thread())
        started.set()
        release.wait(5)
        return threading.current_thread()

    with WorkerThreads() as threads:
        results: list[object] = []

        async def call() -> None:
            results.append(await threads.run(stuck))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await until(started.is_set)
            group.cancel_scope.cancel()
        assert calls[0] is not None
        assert calls[0].abandoned
        busy = {thread.ident for thread in threading.enumerate()}
        assert (await threads.run(threading.current_thread)).ident not in busy, "a busy thread took the next call"
        release.set()
        await until(lambda: len(threads._idle) == 2)
        assert results == []


@pytest.mark.anyio
async def test_call_in_loop_runs_on_the_loop_under_the_threads_own_variables() -> None:
    loop_thread = threading.get_ident()

    async def inner(x: int) -> tuple[int, int, str, bool]:
        await anyio.lowlevel.checkpoint()
        return 2 * x, threading.get_ident(), VAR.get(), current_loop_thread() is None

    def work() -> tuple[object, object]:
        first = call_in_loop(inner, 1)
        VAR.set("thread")
        return first, call_in_loop(inner, 2)

    VAR.set("outer")
    with WorkerThreads() as threads:
        first, second = await threads.run(work)
    assert first == (2, loop_thread, "outer", True)
    assert second == (4, loop_thread, "thread", True)
    assert VAR.get() == "outer", "the waiting task keeps its own variables"


@pytest.mark.anyio
async def test_call_in_loop_raises_in_the_thread_and_nests() -> None:
    with WorkerThreads() as threads:

        async def failing() -> None:
            raise KeyError("inner")

        async def deeper(depth: int) -> int:
            return depth if depth == 0 else 1 + await threads.run(call_in_loop, deeper, depth - 1)

        def work() -> int:
            with pytest.raises(KeyError, match="inner"):
                call_in_loop(failing)
            return call_in_loop(deeper, 5)

        assert await threads.run(work) == 5


@pytest.mark.anyio
async def test_cancelling_the_waiting_task_cancels_the_coroutine_and_tells_the_thread() -> None:
    trace: list[str] = []

    async def forever() -> None:
        trace.append("started")
        try:
            await anyio.sleep_forever()
        finally:
            trace.append("cancelled on the loop")

    def work() -> None:
        for _ in range(2):
            try:
                call_in_loop(forever)
            except CancelledError:
                trace.append("told")

    with WorkerThreads() as threads:
        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, work)
            await until(lambda: trace == ["started"])
            group.cancel_scope.cancel()
        await until(lambda: trace == ["started", "cancelled on the loop", "told", "told"])


@pytest.mark.anyio
async def test_a_request_that_comes_with_the_cancellation_is_refused() -> None:
    ready, go, posted, told = threading.Event(), threading.Event(), threading.Event(), threading.Event()

    async def never() -> None:
        raise AssertionError

    def work() -> None:
        thread = current_loop_thread()
        assert thread is not None
        ready.set()
        go.wait(5)
        threading.Timer(0.01, posted.set).start()
        with suppress(CancelledError):
            thread.call(never)
        told.set()

    with WorkerThreads() as threads:
        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, work)
            await until(ready.is_set)
            go.set()
            posted.wait(5)  # the loop stands still, so both arrive together
            group.cancel_scope.cancel()
        await until(told.is_set)


@pytest.mark.anyio
async def test_call_sync_runs_between_two_tasks_on_the_loops_thread() -> None:
    def work() -> tuple[int, str]:
        thread = current_loop_thread()
        assert thread is not None
        VAR.set("thread")
        with pytest.raises(ZeroDivisionError):
            thread.call_sync(lambda: 1 / 0)
        return thread.call_sync(lambda: (threading.get_ident(), VAR.get()))

    with WorkerThreads() as threads:
        assert await threads.run(work) == (threading.get_ident(), "thread")


@pytest.mark.anyio
async def test_a_thread_can_run_a_loop_of_its_own() -> None:
    async def inner() -> str:
        await anyio.lowlevel.checkpoint()
        return "inner"

    with WorkerThreads() as threads:
        assert await threads.run(anyio.run, inner) == "inner"


def test_outside_there_is_no_loop_thread() -> None:
    async def never() -> None:
        raise AssertionError

    assert current_loop_thread() is None
    with pytest.raises(RuntimeError, match="only inside"):
        call_in_loop(never)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_that_outlives_its_loop_is_told_so(backend: str) -> None:
    release, started, outcome = threading.Event(), threading.Event(), []

    async def never() -> None:
        raise AssertionError

    def stuck() -> None:
        started.set()
        release.wait(5)
        try:
            call_in_loop(never)
        except CancelledError as error:
            outcome.append(str(error))

    async def main() -> None:
        threads = WorkerThreads()
        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, stuck)
            await until(started.is_set)
            group.cancel_scope.cancel()
        threads.close()

    anyio.run(main, backend=backend)
    release.set()
    end = time.monotonic() + 5
    while not outcome and time.monotonic() < end:
        time.sleep(0.002)
    assert outcome == ["the event loop of this worker thread has ended"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_process_exit_does_not_wait_for_an_abandoned_thread(backend: str) -> None:
    script = f"""
import anyio, time
from sweep.threads import WorkerThreads

async def main():
    with WorkerThreads() as threads, anyio.move_on_after(0.05):
        await threads.run(time.sleep, 60)
    print("left")

anyio.run(main, backend={backend!r})
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "left\n"
    assert done.stderr == ""
    assert time.monotonic() - began < 20


@pytest.mark.anyio
async def test_a_failed_call_leaves_no_reference_cycle() -> None:
    class Big:
        pass

    def fail() -> None:
        big = Big()
        raise ValueError(big)

    with WorkerThreads() as threads:
        gc.collect()
        gc.disable()
        try:
            with suppress(ValueError):
                await threads.run(fail)
            await threads.run(int)
            assert not [o for o in gc.get_objects() if type(o) is Big]  # isinstance asks lazy proxies, which warn
        finally:
            gc.enable()
