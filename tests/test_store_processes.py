"""A store and the processes that want it: resumed twice at once, stopped owners, full disks, forks, strangers."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from store_programs import STAGES, Program, outcome

from sweep import Pipeline
from sweep.clock import SystemClock, using_clock
from sweep.errors import RunLocked, StoreCorrupt, StoreError, StoreUnwritable
from sweep.store.blobs import MemoryBlobs
from sweep.store.codec import decode
from sweep.store.runs import roots
from sweep.store.writer import Store, open_store
from sweep.trial import Status

PROGRAMS = Path(__file__).with_name("store_programs.py")
DONE = "done [10, 20, 30, 40]"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_QUIET", "1")


def start(*args: object, **options: Any) -> subprocess.Popen[str]:
    """Start a program."""
    command = [sys.executable, str(PROGRAMS), *map(str, args)]
    options = {"env": {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, **options}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def told(process: subprocess.Popen[str]) -> Any:
    """Return what a program printed."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)


def until(condition: Callable[[], object]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def statuses(path: Path) -> dict[str, Status]:
    with open_store(path) as store:
        return {row.segment: row.status for row in roots(store)}


# ---- two at once -----------------------------------------------------------------------------------------------------


def test_of_two_that_resume_at_one_instant_one_works_and_the_other_is_told_who(tmp_path: Path) -> None:
    path = tmp_path / "sweep.db"
    for said, ran in told(start("race", path, 25)):
        words = sorted(one.partition(" ")[0] for one in said)
        name, resumed = ran[0].split()[0], [0, 1, 2, 2, 3]
        if words[0] == "RunLocked:":
            assert words[1] == "done", said
            assert all("process " in one for one in said if one.startswith("RunLocked")), said
            assert ran == [f"{name} {n}" for n in resumed]
        else:  # the second came when the first had finished: its result, or a new run, all of it
            assert words == ["done", "done"], said
            assert [int(line.split()[1]) for line in ran] in (resumed, [*resumed, 0, 1, 2, 3])
    assert set(statuses(path).values()) == {Status.COMPLETED}


def test_of_two_that_begin_at_one_instant_one_works(tmp_path: Path) -> None:
    for said, ran in told(start("begin_together", tmp_path / "sweep.db", 15)):
        words = Counter(one.partition(" ")[0] for one in said)
        assert words["done"] >= 1, said
        assert words["done"] + words["RunLocked:"] == 2, said
        (times,) = set(Counter(ran).values())  # the second may have come when the first had finished
        assert times <= words["done"]
        assert set(ran) == {f"work {n}" for n in range(STAGES)}


@pytest.mark.parametrize("begun", [False, True], ids=["no-file", "file-without-tables"])
def test_a_store_that_another_makes_between_any_two_statements_of_one_that_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    class Interrupted(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:  # type: ignore[override]  # as it is called
            if not self.in_transaction:
                instants.append(arguments[0])
                if len(instants) == cut:
                    with monkeypatch.context() as other:
                        other.setattr(sqlite3, "connect", connect)
                        Store(path).close()
            return super().execute(*arguments)

    connect, instants = sqlite3.connect, [""]
    cut = 0
    while len(instants) > cut:
        path, cut, instants = tmp_path / f"{cut}.db", cut + 1, []
        if begun:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", partial(connect, factory=Interrupted))
            store = Store(path)
        assert store.row("SELECT count(*) FROM run") == (0,)
        store.close()
    assert cut > 5


def test_eight_processes_with_eight_runs_in_one_new_store(tmp_path: Path) -> None:
    path = tmp_path / "sweep.db"
    said = told(start("many", path, 8))
    assert said == [DONE if number % 2 else "done 20" for number in range(8)]
    assert statuses(path) == {f"run{number}": Status.COMPLETED for number in range(8)}


# ---- owners ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in stage 2 of its run, until the file ``go`` is there."""
    process = start("run", tmp_path / "sweep.db", 10, tmp_path / "go")
    notes = tmp_path / "sweep.db.notes"
    until(lambda: notes.exists() and "work 2" in notes.read_text())
    yield process
    with suppress(ProcessLookupError):
        process.kill()
    process.communicate()


def test_a_stopped_owner_keeps_its_run(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    owner.send_signal(signal.SIGSTOP)
    with pytest.raises(RunLocked, match=f"process {owner.pid} on ") as caught:
        Program(str(tmp_path / "sweep.db")).run()
    assert str(owner.pid) in caught.value.owner
    (tmp_path / "go").touch()
    owner.send_signal(signal.SIGCONT)
    assert told(owner) == [DONE, [f"work {n}" for n in range(STAGES)]]


def test_a_run_taken_from_a_stopped_owner_is_not_written_by_it_any_more(
    tmp_path: Path, owner: subprocess.Popen[str]
) -> None:
    """Only somebody who removes the lock file can take it: then the owner's epoch is a fence."""
    path = tmp_path / "sweep.db"
    owner.send_signal(signal.SIGSTOP)
    (tmp_path / "sweep.db.d" / "lock").unlink()
    assert outcome(Program(str(path)).run) == DONE
    with closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())
    (tmp_path / "go").touch()
    owner.send_signal(signal.SIGCONT)
    said, _ = told(owner)
    assert said.startswith("RunLocked")
    assert "taken" in said
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before


def test_a_killed_owner_leaves_its_run_to_others(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()
    program = Program(str(tmp_path / "sweep.db"))
    assert outcome(program.run) == DONE
    assert program.ran() == [f"work {n}" for n in (0, 1, 2, 2, 3)]


@pytest.mark.parametrize("with_log", [True, False])
def test_a_copy_of_a_live_store_is_resumed_elsewhere(
    tmp_path: Path, owner: subprocess.Popen[str], with_log: bool
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    owner.send_signal(signal.SIGSTOP)
    shutil.copytree(tmp_path / "sweep.db.d", other / "sweep.db.d")
    for suffix in ("", "-wal") if with_log else ("",):
        shutil.copy(tmp_path / f"sweep.db{suffix}", other / f"sweep.db{suffix}")
    program = Program(str(other / "sweep.db"))
    if with_log:
        assert outcome(program.run) == DONE
        assert program.ran() == ["work 2", "work 3"]
    else:  # all of it was in the log: an empty store, which begins from the start
        assert outcome(program.run) == DONE
        assert program.ran() == [f"work {n}" for n in range(STAGES)]
    owner.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    assert told(owner)[0] == DONE


# ---- disks -----------------------------------------------------------------------------------------------------------


def _check_full(said: str, ran: list[str]) -> int:
    assert said.startswith("StoreUnwritable"), said
    assert "sweep.db" in said
    assert "kept" in said
    assert "resume" in said
    return len(ran)


@pytest.mark.parametrize("limit", [120_000, 180_000, 260_000])
def test_what_was_finished_before_the_disk_was_full_is_kept(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "sweep.db"
    begun = _check_full(*told(start("limited", path, 30_000, limit)))
    said, ran = told(start("run", path, 30_000))
    assert said == "done [30000, 60000, 90000, 120000]"
    assert ran[begun:] == [f"work {n}" for n in range(begun - 1, STAGES)], "only the stage that could not be kept"


def test_a_full_file_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no right to mount")
    try:
        begun = _check_full(*told(start("run", disk / "sweep.db", 30_000)))
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        said, ran = told(start("run", disk / "sweep.db", 30_000))
        assert said == "done [30000, 60000, 90000, 120000]"
        assert ran[begun:] == [f"work {n}" for n in range(begun - 1, STAGES)]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_store_that_may_only_be_read(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    assert outcome(Program(str(place / "sweep.db")).run) == DONE
    if os.getuid() == 0:
        mounted = subprocess.run(["mount", "--bind", "-o", "ro", str(place), str(place)], capture_output=True)
        if mounted.returncode != 0:
            pytest.skip("no right to mount")
    else:
        for file in (place / "sweep.db", place):
            file.chmod(0o500)
    try:
        assert statuses(place / "sweep.db") == {"work": Status.COMPLETED}
        with open_store(place / "sweep.db") as store:
            assert not store.is_live(1)
        with pytest.raises(StoreUnwritable, match=r"sweep\.db"):
            Program(str(place / "sweep.db")).run()
    finally:
        if os.getuid() == 0:
            subprocess.run(["umount", str(place)], check=True)
        else:
            place.chmod(0o700)


def test_a_directory_that_is_removed_under_a_run_is_said(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    program = Program(str(place / "sweep.db"))
    program.notes = tmp_path / "notes"
    program.wait = lambda n: shutil.rmtree(place) if n == 2 else None
    with pytest.raises(StoreUnwritable, match=r"sweep\.db.*(removed|gone)"):
        program.run()


# ---- clocks, forks, strangers ----------------------------------------------------------------------------------------


def test_nothing_depends_on_the_clock_on_the_wall(tmp_path: Path) -> None:
    class Jumpy(SystemClock):  # type: ignore[misc]  # final for users; here one method of it lies
        def wall(self) -> float:
            return dice.uniform(-1e9, 5e9)

    dice = random.Random(2)
    for cut in range(STAGES):
        program = Program(str(tmp_path / f"{cut}.db"))

        def stop(n: int, cut: int = cut) -> None:
            if n == cut:
                raise OSError("cut")

        with using_clock(Jumpy()):
            program.wait = stop
            assert outcome(program.run).startswith("OSError")
            program.wait = lambda n: None
            assert outcome(program.run) == DONE
        assert program.ran() == [f"work {n}" for n in (*range(cut + 1), *range(cut, STAGES))]


def test_a_store_opened_before_a_fork_is_refused_in_the_child_and_kept_by_the_parent(tmp_path: Path) -> None:
    store = Store(tmp_path / "sweep.db")
    run_id = store.insert("INSERT INTO run(parent_id, root_id, level, stage, name, number, status, epoch) "
                          "VALUES (0, 0, 'pipeline', '', 'mine', 1, 'running', 0)", ())  # fmt: skip
    store.own(run_id, "mine")
    reader, writer = os.pipe()
    if os.fork() == 0:
        said = []
        store.add("UPDATE run SET name='theirs'", ())
        for attempt in (lambda: store.rows("SELECT 1"), store.commit, lambda: store.own(run_id, "mine"), store.close):
            try:
                attempt()
                said.append("done")
            except StoreError as error:
                said.append(str(error))
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    with os.fdopen(reader) as file:
        read, commit, own, close = json.loads(file.read())
    for refused in (read, commit, own):
        assert "before a fork" in refused
        assert "open it again" in refused
    assert close == "done"
    store.add("UPDATE run SET name='still mine'", ())
    store.commit()
    assert store.row("SELECT name FROM run") == ("still mine",)
    other = start("run", tmp_path / "sweep.db")
    assert told(other)[0] == DONE
    store.close()


STRANGE = [
    {"$": "dataclass", "t": "canary:Canary", "v": {}},
    {"$": "model", "t": "canary:Canary", "v": {}},
    {"$": "enum", "t": "os:system", "v": ["touch pwned"]},
    {"$": "namedtuple", "t": "subprocess:Popen", "v": [["touch", "pwned"]]},
    {"$": "numpy", "v": ["fromfile", "canary.py"]},
    {"$": "torch.dtype", "v": ["load"]},
    {"$": "__import__", "v": ["canary"]},
    {"$": "defaultdict", "v": ["eval", []]},
]


@pytest.mark.parametrize("node", STRANGE, ids=lambda node: f"{node['$']}-{node.get('t', '')}")
def test_a_store_from_a_stranger_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: Any) -> None:
    (tmp_path / "canary.py").write_text("open('pwned', 'w')\nclass Canary: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "sweep.db"

    def one() -> Any:
        return 1

    def two(v: Any) -> int:
        raise OSError("cut")

    pipeline = Pipeline().stage("one", one).through(v=Any).stage("two", two).through(w=int)
    with pytest.raises(OSError, match="cut"):
        pipeline.run(name="work", store=path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE journal SET checksum=NULL, value=? WHERE key='one'", (json.dumps({"v": node}),))
        connection.commit()
    with pytest.raises(StoreCorrupt, match="'one'"):
        pipeline.run(name="work", store=path)
    assert not (tmp_path / "pwned").exists()
    assert "canary" not in sys.modules
    with pytest.raises(StoreCorrupt):
        decode(json.dumps(node), MemoryBlobs())


def test_a_stage_may_change_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy

    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    fail = [True]

    def one() -> Any:
        os.chdir(tmp_path / "elsewhere")
        return numpy.arange(3000)

    def two(v: Any) -> int:
        if fail.pop():
            raise OSError("cut")
        return int(v.sum())

    pipeline = Pipeline().stage("one", one).through(v=numpy.ndarray).stage("two", two).through(w=int)
    with pytest.raises(OSError, match="cut"):
        pipeline.run(name="work", store="sweep.db")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    fail.append(False)
    assert pipeline.run(name="work", store="sweep.db")["w"] == sum(range(3000))


def test_stores_that_are_closed_leave_nothing_open(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("cannot count open files here")
    assert outcome(Program(str(tmp_path / "first.db")).run) == DONE
    before = open_files()
    for number in range(5):
        assert outcome(Program(str(tmp_path / f"{number}.db")).run) == DONE
    assert open_files() <= before


def test_one_lock_file_for_all_stores_of_a_process_stays_until_the_last_is_closed(tmp_path: Path) -> None:
    one, two = Store(tmp_path / "sweep.db"), Store(tmp_path / "sweep.db")
    run_id = one.insert("INSERT INTO run(parent_id, root_id, level, stage, name, number, status, epoch) "
                        "VALUES (0, 0, 'pipeline', '', 'work', 1, 'running', 0)", ())  # fmt: skip
    one.own(run_id, "work")
    with pytest.raises(RunLocked):
        two.own(run_id, "work")
    two.close()
    assert told(start("live", tmp_path / "sweep.db", run_id)) is True
    assert one.is_live(run_id)
    with open_store(tmp_path / "sweep.db") as reader:
        assert reader.is_live(run_id)
    one.close()
    with open_store(tmp_path / "sweep.db") as reader:
        assert not reader.is_live(run_id)
