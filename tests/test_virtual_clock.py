"""Virtual time, on both event loops."""

from __future__ import annotations

import threading
import time

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from sweep.clock import Clock, current_clock, using_clock
from sweep.testing.clock import VirtualClock

pytestmark = pytest.mark.anyio


async def nap(clock: Clock, seconds: float, log: list[tuple[float, str]], name: str) -> None:
    await clock.sleep(seconds)
    log.append((clock.now(), name))


async def test_days_pass_at_once_and_in_order() -> None:
    clock = VirtualClock(100.0)
    protocol: Clock = clock
    log: list[tuple[float, str]] = []
    begun = time.monotonic()
    async with anyio.create_task_group() as group:
        for seconds, name in ((86_400.0, "day"), (5.0, "five"), (3600.0, "hour"), (0.5, "half")):
            group.start_soon(nap, protocol, seconds, log, name)
    assert log == [(100.5, "half"), (105.0, "five"), (3700.0, "hour"), (86_500.0, "day")]
    assert time.monotonic() - begun < 5


async def test_equal_deadlines_end_together() -> None:
    clock = VirtualClock()
    woken: list[int] = []

    async def wait(i: int) -> None:
        await anyio.lowlevel.checkpoint()
        with clock.move_on_after(2):
            await anyio.sleep_forever()
        woken.append(i)

    async with anyio.create_task_group() as group:
        for i in range(50):
            group.start_soon(wait, i)
    assert sorted(woken) == list(range(50))
    assert clock.now() == 2


async def test_chains_of_waits_add_up_while_others_work_in_between() -> None:
    clock = VirtualClock()
    ticks: list[float] = []

    async def ticker() -> None:
        for _ in range(30):
            await clock.sleep(1)
            for _ in range(8):  # rounds of work that must not be overtaken
                await anyio.lowlevel.checkpoint()
            ticks.append(clock.now())

    async with anyio.create_task_group() as group:
        group.start_soon(ticker)
        group.start_soon(nap, clock, 10.5, [], "other")
    assert ticks == [float(i) for i in range(1, 31)]


async def test_a_timeout_cuts_what_is_longer_and_spares_what_is_shorter() -> None:
    clock = VirtualClock()
    with clock.move_on_after(10) as scope:
        await clock.sleep(9)
    assert not scope.cancelled_caught
    with clock.move_on_after(10) as scope:
        await clock.sleep(11)
    assert scope.cancelled_caught
    assert clock.now() == 19
    with clock.move_on_after(5) as scope:
        await anyio.Event().wait()
    assert scope.cancelled_caught
    assert clock.now() == 24
    with clock.move_on_after(float("inf")) as scope:
        await clock.sleep(1e6)
    assert not scope.cancelled_caught
    with clock.move_on_after(0) as scope:
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_a_timeout_that_is_left_in_time_holds_nobody_and_hits_nobody() -> None:
    clock = VirtualClock()
    with clock.move_on_after(1):
        pass
    await clock.sleep(3)
    assert clock.now() == 3


async def test_time_stands_still_while_a_thread_works() -> None:
    clock = VirtualClock()
    seen: list[float] = []
    release = threading.Event()

    def work() -> None:
        assert release.wait(5)
        seen.append(clock.now())

    async def worker() -> None:
        with clock.outstanding():
            await to_thread.run_sync(work)

    async with anyio.create_task_group() as group:
        group.start_soon(worker)
        group.start_soon(nap, clock, 60, [], "sleeper")
        for _ in range(200):
            await anyio.lowlevel.checkpoint()
        assert clock.now() == 0
        release.set()
    assert seen == [0]
    assert clock.now() == 60


async def test_a_thread_of_its_own_may_hold_time_too() -> None:
    clock = VirtualClock()
    held, release = threading.Event(), threading.Event()
    seen: list[float] = []

    def work() -> None:
        with clock.outstanding():
            held.set()
            assert release.wait(5)
            seen.append(clock.now())

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(5)
    async with anyio.create_task_group() as group:
        group.start_soon(nap, clock, 60, [], "sleeper")
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        release.set()
    thread.join()
    assert seen == [0]
    assert clock.now() == 60


async def test_time_can_be_let_pass_by_hand() -> None:
    clock = VirtualClock()
    log: list[tuple[float, str]] = []
    async with anyio.create_task_group() as group:
        group.start_soon(nap, clock, 5, log, "five")
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        clock.advance(2)
        assert clock.now() == 2
        clock.advance(10)
        assert clock.now() == 12
    assert log == [(12, "five")]
    with pytest.raises(ValueError, match="never runs back"):
        clock.advance(-1)


async def test_wall_and_zero_sleeps() -> None:
    clock = VirtualClock(5, wall=1000)
    await clock.sleep(0)
    await clock.sleep(-1)
    assert (clock.now(), clock.wall()) == (5, 1000)
    await clock.sleep(2)
    assert (clock.now(), clock.wall()) == (7, 1002)


async def test_it_is_used_through_the_context() -> None:
    clock = VirtualClock()
    with using_clock(clock):
        await current_clock().sleep(30)
    assert clock.now() == 30


def test_one_clock_serves_one_loop_after_another(anyio_backend: str) -> None:
    clock = VirtualClock()

    async def leave_early() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await clock.sleep(1000)

    for _ in range(2):
        anyio.run(leave_early, backend=anyio_backend)
        anyio.run(clock.sleep, 10, backend=anyio_backend)
    assert clock.now() == 20


async def test_a_thousand_sleepers() -> None:
    clock = VirtualClock()
    log: list[tuple[float, str]] = []
    async with anyio.create_task_group() as group:
        for i in range(1000):
            group.start_soon(nap, clock, (i * 7919 % 100) + 1, log, str(i))
    assert [at for at, _ in log] == sorted(at for at, _ in log)
    assert clock.now() == 100
