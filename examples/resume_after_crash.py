"""A loop that is killed with -9 in its third round, and goes on there."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from sweep import Experiment, Pipeline


class Training(Experiment):
    """Three stages a round; a killed run repeats none that was finished."""

    rounds: int = 4
    done: int = 0
    total: int = 0

    def pipeline(self) -> Pipeline:
        """Return the stages."""
        return (
            Pipeline()
            .loop_while(lambda s: s.done < s.rounds)
            .stage("collect", self.collect)
            .through(batch=list[int])
            .stage("learn", self.learn)
            .through(total=int)
            .stage("advance", lambda done: done + 1)
            .through(done=int)
            .end_loop()
        )

    def collect(self, done: int) -> list[int]:
        """Make a batch."""
        print(f"collect {done}", flush=True)
        return [done, done * done]

    def learn(self, batch: list[int], total: int, done: int) -> int:
        """Add the batch up, unless the machine dies."""
        if done == 2 and os.environ.get("DIE"):
            os.kill(os.getpid(), signal.SIGKILL)
        print(f"learn {done}", flush=True)
        return total + sum(batch)


if __name__ == "__main__":
    if "SWEEP_STORE" in os.environ:
        print("total", Training().run().state.total)
    else:
        with tempfile.TemporaryDirectory() as place:
            here = {**os.environ, "SWEEP_STORE": str(Path(place) / "sweep.db")}
            for environment in ({**here, "DIE": "1"}, here):
                print("--- start")
                sys.stdout.flush()
                end = subprocess.run([sys.executable, __file__], env=environment, check=False)
                print("--- ended with", end.returncode)
