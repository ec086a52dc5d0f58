"""The three local executors: the shipped contract, and what is theirs alone."""

from __future__ import annotations

from sweep.executors.base import Executor
from sweep.executors.local import InlineExecutor, ProcessExecutor, ThreadExecutor
from sweep.testing.executors import ExecutorContract


class TestInline(ExecutorContract):
    def make(self, workers: int | None) -> Executor:
        return InlineExecutor()


class TestThread(ExecutorContract):
    def make(self, workers: int | None) -> Executor:
        return ThreadExecutor(workers)


class TestProcess(ExecutorContract):
    ends_sync = True

    def make(self, workers: int | None) -> Executor:
        return ProcessExecutor(workers)
