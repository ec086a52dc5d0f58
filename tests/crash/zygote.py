"""Forks a process for each program that is to run, and possibly to die; so that each start costs milliseconds.

Reads jobs as JSON lines, answers each with a line: how the process ended and what it returned.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from typing import Any

import programs

from sweep.store.writer import Store


def die_at(count: int, after: bool) -> None:
    """Kill this process at its n-th transaction, before or after it."""
    original, seen = Store._transaction, 0

    def transaction(self: Store, work: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = original(self, work)
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Store._transaction = transaction  # type: ignore[method-assign]  # a process made to die


def count_into(counter: list[int]) -> None:
    """Count transactions."""
    original = Store._transaction

    def transaction(self: Store, work: Any) -> Any:
        counter[0] += 1
        return original(self, work)

    Store._transaction = transaction  # type: ignore[method-assign]  # a process that is measured


def main() -> None:
    """Serve jobs until the end of input."""
    warnings.simplefilter("error")
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _child(job, writing)
        os.close(writing)
        print(json.dumps({"pid": pid}), flush=True)
        with open(reading, encoding="utf-8") as answer:
            text = answer.read()
        status = os.waitpid(pid, 0)[1]
        ended = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"code": os.WEXITSTATUS(status)}
        print(json.dumps({**ended, "answer": json.loads(text) if text else None}), flush=True)


def _child(job: dict[str, Any], writing: int) -> None:
    sys.stdin.close()
    error = os.open(job["error"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(error, 2)
    os.set_inheritable(writing, False)
    code, transactions = 1, [0]
    try:
        count_into(transactions)
        if job.get("die_at"):
            die_at(job["die_at"], job["after"])
        answer = getattr(programs, job["program"])(job["store"], job["log"])
        os.write(writing, json.dumps({"returned": answer, "transactions": transactions[0]}).encode())
        code = 0
    except BaseException:  # noqa: BLE001  # whatever it is, it is told, and this process ends here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
