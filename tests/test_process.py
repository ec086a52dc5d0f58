"""Child processes: how they are made, how they end, and that nothing of them is left."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from sweep.context import Context
from sweep.errors import ContractError, TrialFailed, TrialStopped
from sweep.executors.base import Task
from sweep.executors.local import ProcessExecutor
from sweep.process import inside_child
from sweep.testing.executors import RecordingSession
from sweep.trial import Decision, Resources

LINUX = sys.platform.startswith("linux")
linux_only = pytest.mark.skipif(not LINUX, reason="needs /proc and PR_SET_CHILD_SUBREAPER")


# ---------------------------------------------------------------- looking at processes


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(stat.parent.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


async def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)


def pids_in(path: Path, count: int) -> list[int]:
    wait_until(lambda: path.exists() and len(path.read_text().split()) >= count)
    return [int(word) for word in path.read_text().split()]


# ---------------------------------------------------------------- what runs in the children


def note_pid(path: Path, pid: int | None = None) -> None:
    with path.open("a") as file:
        file.write(f"{pid or os.getpid()}\n")


def quick() -> int:
    return os.getpid()


def segfault() -> None:
    ctypes.string_at(0)


def exit_hard(code: int) -> None:
    os._exit(code)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def raise_chained() -> None:
    try:
        _ = {}["missing"]
    except KeyError as error:
        raise ValueError("bad learning rate") from error


def return_lock() -> Any:
    return threading.Lock()


def surroundings() -> dict[str, Any]:
    return {
        "inside": inside_child(),
        "pid": os.getpid(),
        "session": os.getsid(0),
        "cwd": str(Path.cwd()),
        "path": sys.path,
        "argv": sys.argv,
        "omp": os.environ["OMP_NUM_THREADS"],
        "mkl": os.environ["MKL_NUM_THREADS"],
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "marker": os.environ.get("SWEEP_TEST_MARKER"),
        "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "main": sys.modules["__main__"].__name__,
        "in a child's child": subprocess.run(
            [sys.executable, "-c", "from sweep.process import inside_child; print(inside_child())"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        ).stdout.strip(),
    }


def descriptors() -> list[str]:
    found = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and _is_open(fd)]
    return sorted(name.partition(":")[0] for name in found)


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def speak() -> None:
    print("from python")
    ctypes.CDLL(None).puts(b"from C")
    os.system("echo from a shell; echo loudly >&2")
    print("to stderr", file=sys.stderr)


def speak_and_die() -> None:
    ctypes.CDLL(None).puts(b"from C")
    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)


def family(path: Path, ctx: Context) -> None:
    """Start a child in this group, one in a session of its own, a daemon, and then hang in C code."""
    note_pid(path)
    sleeper = [sys.executable, "-c", "import time; time.sleep(300)"]
    note_pid(path, subprocess.Popen(sleeper).pid)
    note_pid(path, subprocess.Popen(sleeper, start_new_session=True).pid)
    fork = "import os, time\nif os.fork() == 0:\n    os.setsid(); print(os.getpid(), flush=True); time.sleep(300)"
    daemon = subprocess.Popen([sys.executable, "-c", fork], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    note_pid(path, int(daemon.stdout.readline()))
    ctx.report(1)
    ctypes.PyDLL(None).sleep(300)  # in C code, and with the GIL held


def family_that_returns(path: Path, ctx: Context) -> str:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        note_pid(path)
        time.sleep(300)
        os._exit(0)
    wait_until(path.exists)
    return "done"


def hang(path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    path.write_text(f"{os.getpid()} {sleeper.pid}")
    time.sleep(300)


def clean_up(path: Path, ctx: Context) -> None:
    try:
        ctx.report(1)
        time.sleep(300)
    finally:
        path.write_text("cleaned up")


def ignore_term(path: Path, ctx: Context) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note_pid(path)
    ctx.report(1)
    time.sleep(300)


def eat(megabytes: int) -> int:
    return len(b"x" * (megabytes << 20))


def random_numbers() -> tuple[float, float]:
    import random

    import numpy

    return random.random(), float(numpy.random.rand())


def double_array(ctx: Context) -> Any:
    import numpy

    array = numpy.arange(1_000_000.0)
    ctx.save({"weights": array, "view": array[::2]})
    loaded = ctx.load()
    loaded["weights"][0] = 7.0  # it is ours to change
    return loaded["weights"] * 2


def report_many(n: int, ctx: Context) -> None:
    for step in range(1, n + 1):
        ctx.report(step, loss=0.5)


def fork_and_report(ctx: Context) -> int:
    """Leave a forked process behind that holds the wire open."""
    if os.fork() == 0:
        time.sleep(300)
        os._exit(0)
    os._exit(5)


async def run(function: Callable[..., Any], *, preload: bool = True, output: Path | None = None, **kwargs: Any) -> Any:
    resources = kwargs.pop("resources", Resources())
    session = kwargs.pop("session", None) or RecordingSession()
    context_name = "ctx" if "ctx" in function.__code__.co_varnames else None
    executor = ProcessExecutor()
    async with executor.open([function] if preload else []):
        return await executor.run(Task(function, kwargs, context_name, resources, output=output), session)


async def failure(function: Callable[..., Any], **kwargs: Any) -> TrialFailed:
    with pytest.raises(TrialFailed) as caught:
        await run(function, **kwargs)
    return caught.value


# ---------------------------------------------------------------- surroundings


@pytest.mark.anyio
@pytest.mark.parametrize("preload", [True, False])
async def test_a_child_has_our_surroundings_and_a_session_of_its_own(
    preload: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_TEST_MARKER", "here")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    seen = await run(surroundings, preload=preload, resources=Resources(cpus=1))
    assert seen["inside"] is True
    assert seen["in a child's child"] == "False"
    assert not inside_child()
    assert seen["session"] == seen["pid"] != os.getsid(0)
    assert (seen["cwd"], seen["path"], seen["argv"]) == (str(tmp_path), sys.path, sys.argv)
    assert (seen["omp"], seen["mkl"], seen["cuda"], seen["marker"]) == ("1", "1", None, "here")
    assert seen["sigint"] is True


@linux_only
@pytest.mark.anyio
async def test_a_child_holds_only_its_wire_open(tmp_path: Path) -> None:
    executor = ProcessExecutor()
    async with executor.open([descriptors]), anyio.create_task_group() as group:
        group.start_soon(executor.run, Task(hang, {"path": tmp_path / "sibling"}), RecordingSession())
        await until((tmp_path / "sibling").exists)
        assert await executor.run(Task(descriptors, {}), RecordingSession()) == ["socket"]
        group.cancel_scope.cancel()


@linux_only
@pytest.mark.anyio
async def test_no_descriptor_and_no_process_is_left() -> None:
    def held() -> tuple[int, set[int]]:
        return len(os.listdir("/proc/self/fd")), children_of(os.getpid())

    await run(quick)
    before = held()
    executor = ProcessExecutor()
    for function, kwargs in ((quick, {}), (exit_hard, {"code": 1}), (segfault, {})):
        async with executor.open([function]):
            for _ in range(3):
                try:
                    await executor.run(Task(function, kwargs), RecordingSession())
                except TrialFailed:
                    continue
    assert held() == before


@pytest.mark.anyio
async def test_each_child_draws_other_random_numbers() -> None:
    import numpy

    executor = ProcessExecutor()
    async with executor.open([random_numbers, numpy.random.default_rng]):  # so that the server has numpy.random
        drawn = [await executor.run(Task(random_numbers, {}), RecordingSession()) for _ in range(3)]
    assert len({pair[0] for pair in drawn}) == len({pair[1] for pair in drawn}) == 3


def test_a_script_without_main_guard_a_module_without_path_and_lambdas(tmp_path: Path) -> None:
    loaded = tmp_path / "elsewhere" / "plugin.py"
    loaded.parent.mkdir()
    loaded.write_text("FACTOR = 10\ndef scale(x):\n    return FACTOR * x\n")
    (tmp_path / "beside.py").write_text("def shift(x):\n    return x + 1\n")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import importlib.util, sys
        from dataclasses import dataclass
        import anyio
        import beside
        from sweep.executors.base import Task
        from sweep.executors.local import ProcessExecutor
        from sweep.testing.executors import RecordingSession

        spec = importlib.util.spec_from_file_location("plugin", {str(loaded)!r})
        plugin = sys.modules["plugin"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(plugin)

        @dataclass
        class Point:
            x: int

        OFFSET = 100

        def objective(point):
            return Point(plugin.scale(beside.shift(point.x)) + OFFSET)

        async def main():
            executor = ProcessExecutor()
            adds = lambda a: a + OFFSET
            async with executor.open([objective, plugin.scale]):
                point = await executor.run(Task(objective, {{"point": Point(4)}}), RecordingSession())
                assert type(point) is Point, type(point)
                scaled = await executor.run(Task(plugin.scale, {{"x": 2}}), RecordingSession())
                added = await executor.run(Task(adds, {{"a": 3}}), RecordingSession())
            print(point, scaled, added)

        anyio.run(main)
        """)
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert (done.stdout, done.stderr) == ("Point(x=150) 20 103\n", "")


@pytest.mark.anyio
async def test_where_an_import_initialises_cuda_children_are_not_forked_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A torch that says so stands in for a GPU: the children must import it themselves."""
    (tmp_path / "torch.py").write_text(
        textwrap.dedent("""
        import os
        LOADED_BY = os.getpid()
        class cuda:
            is_initialized = staticmethod(lambda: True)
        def set_num_threads(count):
            pass
        """)
    )
    (tmp_path / "uses_cuda.py").write_text("import os, torch\ndef mine():\n    return torch.LOADED_BY == os.getpid()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "torch"}
    try:
        import uses_cuda  # type: ignore[import-not-found]  # written above

        executor = ProcessExecutor()
        async with executor.open([uses_cuda.mine]):
            assert await executor.run(Task(uses_cuda.mine, {}), RecordingSession()) is True
        assert capfd.readouterr().err.count("children are spawned, not forked") == 1
    finally:
        for name in ("torch", "uses_cuda"):
            sys.modules.pop(name, None)
        sys.modules.update(real)


# ---------------------------------------------------------------- values


@pytest.mark.anyio
async def test_arrays_travel_and_can_be_written() -> None:
    import numpy

    session = RecordingSession()
    value = await run(double_array, session=session)
    assert numpy.array_equal(value[1:], numpy.arange(1_000_000.0)[1:] * 2)
    assert value[0] == 14.0
    assert numpy.array_equal(session.kept["view"], numpy.arange(1_000_000.0)[::2])


@pytest.mark.anyio
async def test_a_value_that_cannot_travel_is_named() -> None:
    error = await failure(return_lock)
    assert "the returned value, a _thread.lock, cannot be sent" in str(error)


class Silent(Exception):
    """An error that cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def raise_silent() -> None:
    raise Silent


def raise_at_length() -> None:
    raise ValueError("x" * 5_000_000)


def exit_with_words() -> None:
    sys.exit("no data")


def return_nested() -> Any:
    return {"fine": 1, "inner": [2, (i for i in range(3))]}


@pytest.mark.anyio
async def test_what_cannot_be_told_or_is_too_long_to_be_told_is_still_told_of() -> None:
    assert "a builtins.generator in the returned value cannot be sent" in str(await failure(return_nested))
    error = await failure(raise_silent)
    assert str(error) == "raise_silent() raised Silent: <no str: RuntimeError>"
    assert "in raise_silent" in error.traceback
    error = await failure(raise_at_length)
    assert "characters left out" in str(error)
    assert len(str(error)) + len(error.traceback) < 30_000
    assert str(await failure(exit_with_words)).endswith("called sys.exit(no data)")


def abort_after(megabytes: int) -> None:
    for _ in range(megabytes):
        sys.stderr.write("y" * 1_000_000 + "\n")
    os.abort()


@pytest.mark.anyio
async def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        error = await failure(abort_after, output=tmp_path, megabytes=20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "in abort_after" in error.traceback
    assert peak < 10_000_000


@pytest.mark.anyio
async def test_an_unpicklable_objective_is_refused_before_anything_runs() -> None:
    lock = threading.Lock()

    def inner() -> None:
        lock.acquire()

    def objective() -> None:
        inner()

    executor = ProcessExecutor()
    with pytest.raises(ContractError, match=r"objective: variable 'inner': variable 'lock' cannot be sent") as caught:
        async with executor.open([objective]):
            raise AssertionError("opened")
    assert "_thread.lock" in str(caught.value)
    async with executor.open():
        with pytest.raises(TypeError, match=r"argument 'big' cannot be sent.*lock"):
            await executor.run(Task(quick, {"big": lock}), RecordingSession())


@pytest.mark.anyio
async def test_an_objective_that_cannot_be_imported_is_refused_with_the_traceback(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return exec_trap, ()

    trap = Trap()

    def objective() -> Trap:
        return trap

    with pytest.raises(ContractError, match=r"(?s)cannot be imported in a child.*sprung"):
        async with ProcessExecutor().open([objective]):
            raise AssertionError("opened")


def exec_trap() -> None:
    raise RuntimeError("sprung")


# ---------------------------------------------------------------- deaths


@pytest.mark.anyio
async def test_every_death_is_told_apart(tmp_path: Path) -> None:
    error = await failure(raise_chained)
    assert (error.kind, error.exit_code, error.signal) == ("error", None, None)
    assert "raised ValueError: bad learning rate" in str(error)
    assert "KeyError: 'missing'" in error.traceback
    assert "raise_chained" in error.traceback
    assert "child.py" not in error.traceback, "the user's frames only"

    error = await failure(segfault, output=tmp_path)
    assert (error.kind, error.signal) == ("error", "SIGSEGV")
    assert "segmentation fault" in str(error)
    assert "in segfault" in error.traceback
    assert "in segfault" in (tmp_path / "stderr.log").read_text()

    error = await failure(exit_hard, code=7)
    assert (error.exit_code, error.signal) == (7, None)
    assert "exited with code 7 before it returned" in str(error)

    error = await failure(kill_self, number=signal.SIGKILL)
    assert error.signal == "SIGKILL"
    assert "out of memory?" in str(error)


@linux_only
@pytest.mark.anyio
async def test_memory_above_the_limit_is_killed_and_said(tmp_path: Path) -> None:
    def balloon() -> None:
        held = b"x" * (300 << 20)
        time.sleep(60)
        held.count(b"y")

    error = await failure(balloon, resources=Resources(memory=150 << 20))
    assert "bytes of memory, more than the 157286400 it was given" in str(error)
    assert await run(eat, megabytes=1, resources=Resources(memory=300 << 20)) == 1 << 20


@linux_only
@pytest.mark.anyio
async def test_a_forked_process_that_holds_the_wire_does_not_hold_us_up() -> None:
    with anyio.fail_after(20):
        error = await failure(fork_and_report)
    assert error.exit_code == 5


# ---------------------------------------------------------------- ends


@linux_only
@pytest.mark.anyio
@pytest.mark.parametrize("by", ["cancel", "time limit"])
async def test_a_child_is_killed_with_all_it_started_in_c_code_too(by: str, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    session, executor = RecordingSession(), ProcessExecutor()
    resources = Resources(time_limit=1.0) if by == "time limit" else Resources()
    async with executor.open([family]):
        task = Task(family, {"path": path}, "ctx", resources)
        async with anyio.create_task_group() as group:

            async def place() -> None:
                if by == "cancel":
                    await executor.run(task, session)
                with pytest.raises(TrialFailed, match="time limit of 1 s and was killed"):
                    await executor.run(task, session)

            group.start_soon(place)
            await until(lambda: session.reports or by == "time limit")
            if by == "cancel":
                group.cancel_scope.cancel()
        assert len(pids := pids_in(path, 4)) == 4
        assert not [pid for pid in pids if alive(pid)], "they are gone when the call returns"


@linux_only
@pytest.mark.anyio
async def test_what_a_finished_child_left_behind_is_killed(tmp_path: Path) -> None:
    path, executor = tmp_path / "pid", ProcessExecutor()
    async with executor.open([family_that_returns]):
        task = Task(family_that_returns, {"path": path}, "ctx")
        assert await executor.run(task, RecordingSession()) == "done"
        assert not alive(pids_in(path, 1)[0])


@pytest.mark.anyio
async def test_a_cancelled_child_may_clean_up_but_not_for_long(tmp_path: Path) -> None:
    executor, began = ProcessExecutor(), time.monotonic()
    async with executor.open():
        for function, name in ((clean_up, "cleaned"), (ignore_term, "pid")):
            session = RecordingSession()
            async with anyio.create_task_group() as group:
                group.start_soon(executor.run, Task(function, {"path": tmp_path / name}, "ctx"), session)
                await until(lambda session=session: session.reports)  # type: ignore[misc]
                group.cancel_scope.cancel()
    assert (tmp_path / "cleaned").read_text() == "cleaned up"
    assert not alive(pids_in(tmp_path / "pid", 1)[0])
    assert time.monotonic() - began < 6, "SIGKILL follows soon"


@linux_only
@pytest.mark.anyio
async def test_a_daemon_of_a_living_child_is_left_alone(tmp_path: Path) -> None:
    session, executor, path = RecordingSession(), ProcessExecutor(), tmp_path / "pids"
    async with executor.open([family]), anyio.create_task_group() as group:
        group.start_soon(executor.run, Task(family, {"path": path}, "ctx"), session)
        await until(lambda: session.reports)
        for _ in range(3):
            await executor.run(Task(quick, {}), RecordingSession())
        assert all(alive(pid) for pid in pids_in(path, 4))
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_stopping_at_a_one_way_report_ends_the_child() -> None:
    session = RecordingSession({3: Decision.STOP}, next_decision=10**9)
    with pytest.raises(TrialStopped):
        await run(report_many, n=10**9, session=session)


@linux_only
@pytest.mark.anyio
async def test_a_dead_server_loses_its_children_and_is_replaced(tmp_path: Path) -> None:
    executor = ProcessExecutor()
    async with executor.open([hang, quick]):
        lost: list[TrialFailed] = []

        async def place(name: str) -> None:
            try:
                await executor.run(Task(hang, {"path": tmp_path / name}), RecordingSession())
            except TrialFailed as error:
                lost.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(place, "a")
            group.start_soon(place, "b")
            await until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
            server = executor._open.server.pid  # type: ignore[union-attr]
            assert server is not None
            os.kill(server, signal.SIGKILL)
        assert [error.kind for error in lost] == ["lost", "lost"]
        assert "its fork server died" in str(lost[0])
        for name in "ab":
            wait_until(lambda name=name: not [pid for pid in pids_in(tmp_path / name, 2) if alive(pid)])  # type: ignore[misc]
        pids = {await executor.run(Task(quick, {}), RecordingSession()) for _ in range(3)}
        assert len(pids) == 3
        assert executor._open.server.pid != server  # type: ignore[union-attr]


@linux_only
@pytest.mark.parametrize(("backend", "who"), [("asyncio", "owner"), ("trio", "owner"), ("asyncio", "server")])
def test_nothing_outlives_a_killed_owner_nor_a_child_its_server(tmp_path: Path, backend: str, who: str) -> None:
    path = tmp_path / "pids"
    script = f"""
        import sys, anyio
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_process import Path, ProcessExecutor, RecordingSession, Task, family, quick

        async def main():
            executor = ProcessExecutor()
            session = RecordingSession()
            async with executor.open([family]), anyio.create_task_group() as group:
                group.start_soon(executor.run, Task(family, {{"path": Path({str(path)!r})}}, "ctx"), session)
                while not session.reports:
                    await anyio.sleep(0.01)
                print(executor._open.server.pid, flush=True)
                await anyio.sleep(300)

        anyio.run(main, backend={backend!r})
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    with owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        pids = [*pids_in(path, 4), server]
        assert all(alive(pid) for pid in pids)
        if who == "server":
            owner.send_signal(signal.SIGSTOP)  # so that it cannot help
            os.kill(server, signal.SIGKILL)
            wait_until(lambda: not alive(pids[0]))
            owner.send_signal(signal.SIGCONT)
        owner.kill()
        for pid in pids[1:4] if who == "server" else ():  # what children of a dead server had started
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not [pid for pid in pids if alive(pid)])


# ---------------------------------------------------------------- output


@pytest.mark.anyio
async def test_output_is_kept_by_attempt_whoever_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    executor = ProcessExecutor()
    async with executor.open([speak, speak_and_die]):
        for attempt, function in ((1, speak_and_die), (2, speak)):
            task = Task(function, {}, facts={"path": "s/trial[1]", "attempt": attempt}, output=tmp_path / "out")
            try:
                await executor.run(task, RecordingSession())
            except TrialFailed as error:
                assert error.signal == "SIGKILL"  # the first attempt
    lines = (tmp_path / "out" / "stdout.log").read_text().splitlines()
    assert lines[0].startswith("--- s/trial[1], attempt 1 · ")
    assert lines[1:3] == ["from C", "last words"], "a killed child's lines are there"
    assert lines[3].startswith("--- s/trial[1], attempt 2 · ")
    assert lines[4:] == ["from python", "from C", "from a shell"]
    errors = (tmp_path / "out" / "stderr.log").read_text().splitlines()
    assert errors[-2:] == ["loudly", "to stderr"]
    assert json.dumps(errors).count("attempt") == 2


# ---------------------------------------------------------------- shared servers


@linux_only
@pytest.mark.anyio
async def test_a_second_opening_that_fails_leaves_the_first_ones_children_alone(tmp_path: Path) -> None:
    executor, session = ProcessExecutor(), RecordingSession()
    async with executor.open([family_that_waits]), anyio.create_task_group() as group:
        group.start_soon(executor.run, Task(family_that_waits, {"path": tmp_path / "go"}, "ctx"), session)
        await until(lambda: session.reports)
        trap = _Trap()
        with pytest.raises(ContractError):
            async with executor.open([lambda: trap]):
                raise AssertionError("opened")
        (tmp_path / "go").touch()
    assert [step for step, _ in session.reports] == [1, 2]


class _Trap:
    def __reduce__(self) -> Any:
        return exec_trap, ()


def family_that_waits(path: Path, ctx: Context) -> None:
    ctx.report(1)
    wait_until(path.exists)
    ctx.report(2)


@linux_only
@pytest.mark.anyio
async def test_what_the_imports_started_stays_until_the_server_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that starts a helper process when it is imported."""
    module = """
        import os, subprocess, sys
        HELPER = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) if os.getppid() else None
        def helper():
            return HELPER.pid
    """
    (tmp_path / "with_helper.py").write_text(textwrap.dedent(module))
    monkeypatch.syspath_prepend(str(tmp_path))
    import with_helper  # type: ignore[import-not-found]  # written above

    try:
        executor = ProcessExecutor()
        async with executor.open([with_helper.helper]):
            pids = [await executor.run(Task(with_helper.helper, {}), RecordingSession()) for _ in range(2)]
            assert pids[0] == pids[1] != with_helper.HELPER.pid
            assert alive(pids[0])
        assert not alive(pids[0])
    finally:
        with_helper.HELPER.kill()
        with_helper.HELPER.wait()
        del sys.modules["with_helper"]
