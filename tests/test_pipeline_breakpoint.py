"""A breakpoint on a real terminal: the live display makes way for the debugger and comes back."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PROGRAM = textwrap.dedent("""
    import time
    from sweep import Pipeline

    def noise(x: int) -> int:
        return x

    def work(ctx) -> int:
        for step in range(1, 60):
            ctx.log_metric("m", step)
            time.sleep(0.005)
        return 1

    inner = Pipeline(x=int)
    for number in range(40):
        inner = inner.stage(f"busy{number}", lambda: time.sleep(0.01))
    pipeline = (
        Pipeline(x=int)
        .stage("first", noise).through(y=int)
        .parallel(looked_at=Pipeline(y=int).stage("looked", noise, settings={"x": 1}, breakpoint=WHEN).through(z=int), busy=inner)
        .stage("last", lambda z: z + 41).through(out=int)
    )
    print("OUT", pipeline.run(name="r", x=1).out)
""")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, program: str, path: Path) -> None:
        (path / "program.py").write_text(program)
        self.ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "SWEEP_STORE": str(path / "sweep.db")}
        environment.pop("SWEEP_QUIET", None)
        words = [sys.executable, str(path / "program.py")]
        self.process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=path)
        os.close(theirs)
        self.seen = ""

    def until(self, text: str, seconds: float = 20) -> str:
        """Return what is written up to a text."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.ours], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"no {text!r} within {seconds} s:\n{self.seen}")
            try:
                self.seen += os.read(self.ours, 65536).decode(errors="replace")
            except OSError:  # how Linux says that nobody writes any more
                raise AssertionError(f"it ended without {text!r}:\n{self.seen}") from None
        found, _, self.seen = self.seen.partition(text)
        return found

    def quiet_for(self, seconds: float) -> str:
        """Return what is written within some time."""
        found = ""
        while select.select([self.ours], [], [], seconds)[0]:
            found += os.read(self.ours, 65536).decode(errors="replace")
            seconds = 0.05
        return found

    def write(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def close(self) -> int:
        self.process.kill()
        os.close(self.ours)
        return self.process.wait()


@pytest.mark.parametrize("when", ["True", "lambda s: s.y == 1"])
def test_the_display_makes_way_for_the_debugger(when: str, tmp_path: Path) -> None:
    terminal = Terminal(PROGRAM.replace("WHEN", when), tmp_path)
    try:
        before = terminal.until("(Pdb) ")
        shown = [mark for mark in re.findall(r"\x1b\[\?25[hl]", before)]
        assert "\x1b[?25l" in shown, "the test needs a display that was up"
        assert shown[-1] == "\x1b[?25h", "the display is down, the cursor is back"
        assert terminal.quiet_for(0.5) == "", "nothing is drawn while somebody types"
        terminal.write("state.y, stage\n")
        assert "(1, 'r/looked_at/looked')" in terminal.until("(Pdb) ")
        terminal.write("c\n")
        after = terminal.until("OUT 42")
        assert "busy" in after, "the display has come back"
        assert re.findall(r"\x1b\[\?25[hl]", after)[-1] == "\x1b[?25h"
        assert terminal.process.wait(10) == 0
    finally:
        terminal.close()


def test_leaving_the_debugger_stops_the_run_in_good_order(tmp_path: Path) -> None:
    terminal = Terminal(PROGRAM.replace("WHEN", "True"), tmp_path)
    try:
        terminal.until("(Pdb) ")
        terminal.write("q\n")
        terminal.until("KeyboardInterrupt")
        assert terminal.process.wait(10) != 0
    finally:
        terminal.close()
