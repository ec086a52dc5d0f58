"""A process that dies at a transaction of its store, played in this one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sweep.store.writer import Store


class Killed(BaseException):
    """The process is dead: nothing is written any more, whatever still runs."""


class Deaths:
    """Kills at the n-th transaction, before or after it; 0 = only counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.at = 0
        self.after = self.dead = False
        original = Store._transaction
        deaths = self

        def transaction(self: Store, work: Callable[[Any], Any]) -> Any:
            deaths.count += 1
            if deaths.dead or (deaths.count == deaths.at and not deaths.after):
                deaths.dead = True
                raise Killed
            done = original(self, work)
            if deaths.count == deaths.at:
                deaths.dead = True
                raise Killed
            return done

        monkeypatch.setattr(Store, "_transaction", transaction)

    def run(self, work: Callable[[], Any], *, at: int = 0, after: bool = False) -> Any:
        """Return what ``work`` returns, or Killed."""
        self.count, self.at, self.after, self.dead = 0, at, after, False
        try:
            return work()
        except Killed as killed:
            return killed
        finally:
            self.at, self.dead = 0, False


def rows(path: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return what a store holds, read beside it."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query, values).fetchall()
