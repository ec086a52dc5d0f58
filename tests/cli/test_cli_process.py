"""The command line as a process of its own: streams, exit codes, kill -9, Ctrl-C, SIGTERM, start-up time."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_world import start

SLOW = """
import time
from sweep import SweepExperiment, Uniform
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler

def objective(x: float, ctx):
    with open("calls.txt", "a") as file:
        file.write(f"{ctx.trial}\\n")
    for step in range(ctx.step + 1, 10):
        time.sleep(0.03)
        ctx.save({"step": step})
        ctx.report(step, loss=(x - 0.3) ** 2 + 1 / step)

slow = SweepExperiment(objective, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), metric="loss", name="slow", seed=3)

if __name__ == "__main__":
    print(len(slow.run(budget=5).trials))
"""


@pytest.fixture
def slow(work: Path) -> Path:
    """Hold a file with a sweep of five trials of 0.3 s."""
    (work / "slow.py").write_text(SLOW)
    return work


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until it holds, as long as the process lives."""
    until = time.monotonic() + 20
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def finished(count: int) -> Callable[[], bool]:
    """Return whether so many trials have completed, as the store says."""

    def look() -> bool:
        if not Path("sweep.db").exists():
            return False
        connection = sqlite3.connect("file:sweep.db?mode=ro", uri=True)
        try:
            query = "SELECT count(*) FROM run WHERE level='trial' AND status='completed'"
            return bool(connection.execute(query).fetchone()[0] >= count)
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()

    return look


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a process."""
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def sweep(*words: str) -> tuple[int, str, str]:
    """Run ``python -m sweep WORDS…`` to its end."""
    return ended(start(*words))


def trials_begun() -> list[int]:
    return [int(line) for line in Path("calls.txt").read_text().split()]


def test_killed_with_9_and_resumed_it_repeats_nothing_that_had_finished(slow: Path) -> None:
    process = start("run", "slow.py", "--budget", "5")
    wait_for(lambda: finished(2)() and len(trials_begun()) > 2, process)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL
    done = len(trials_begun()) - 1
    code, out, err = sweep("resume", "slow", "--dry-run", "--json")
    assert code == 0, err
    plan = json.loads(out)["plan"]
    assert plan[0]["action"] == "restored"
    assert any(line["path"] == f"trial[{done}]" and line["action"] in ("goes on", "runs again") for line in plan)
    code, out, err = sweep("resume", "slow", "--json")
    assert code == 0, err
    assert json.loads(out)["n_trials"] == 5
    assert "sweep: slow (run 1):" in err
    begun = trials_begun()
    assert sorted(set(begun)) == list(range(5))
    assert all(begun.count(number) == 1 for number in range(5) if number != done), "only the one that was cut began again"
    assert json.loads(sweep("ls", "--json")[1])[0]["status"] == "completed"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_in_good_order_and_prints_the_resume_line(slow: Path, sent: signal.Signals, code: int) -> None:
    process = start("run", "slow.py", "--budget", "5")
    wait_for(finished(1), process)
    process.send_signal(sent)
    found, out, err = ended(process)
    assert (found, out) == (code, ""), err
    assert "sweep resume 1 --store" in err
    assert "Traceback" not in err
    status = json.loads(sweep("ls", "--json")[1])[0]
    assert status["status"] == "interrupted"
    command = err.split("go on with: sweep ")[1].split("\n")[0].split()
    code, out, err = sweep(*command, "--json")
    assert (code, json.loads(out)["n_trials"]) == (0, 5), err


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_file_is_imported(work: Path, sent: signal.Signals, code: int) -> None:
    (work / "heavy.py").write_text("import time\nopen('begun', 'w').close()\ntime.sleep(30)\n")
    process = start("run", "heavy.py")
    wait_for(Path("begun").exists, process)
    process.send_signal(sent)
    found, out, err = ended(process)
    assert (found, out) == (code, ""), err
    assert "Traceback" not in err


def test_a_script_killed_with_9_is_executed_again_by_resume(slow: Path) -> None:
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "slow.py"], env={"PYTHONPATH": root}, text=True, stderr=subprocess.PIPE)
    wait_for(finished(2), process)
    process.kill()
    process.communicate()
    code, out, err = sweep("resume", "slow", "--dry-run")
    assert code == 0, err
    assert out.startswith("slow (run 1):\n")
    code, out, err = sweep("resume", "slow")
    assert (code, out) == (0, "5\n"), err
    assert len(trials_begun()) <= 6


def test_stop_ends_a_live_sweep_from_another_terminal(slow: Path) -> None:
    process = start("run", "slow.py", "--budget", "500", "--json")
    wait_for(finished(1), process)
    code, _, err = sweep("stop", "slow")
    assert code == 0
    assert "asked slow to stop" in err
    code, out, err = ended(process)
    assert code == 0, err
    assert json.loads(out)["n_trials"] < 500


def test_two_resumers_at_once_one_works(slow: Path) -> None:
    process = start("run", "slow.py", "--budget", "5")
    wait_for(finished(1), process)
    code, _, err = sweep("resume", "slow")
    assert code == 4
    assert "RunLocked" in err
    assert ended(process)[0] == 0


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    root = str(Path(__file__).parents[2])
    code = (
        "import sys, time\nbegan = time.process_time()\nfrom sweep.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'pydantic', 'numpy', 'torch', 'sqlmodel', 'anyio', 'rich', 'optuna'} & set(sys.modules)\n"
        "sys.stderr.write(f'{time.process_time() - began} {sorted(heavy)}')\n"
    )
    best = 9.0
    for _ in range(3):
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": root}, check=True)
        seconds, heavy = found.stderr.split(" ", 1)
        assert heavy == "[]"
        best = min(best, float(seconds))
    assert best < 0.15
