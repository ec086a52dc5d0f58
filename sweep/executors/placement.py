"""What this machine has, and who holds how much of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple, final

import anyio

from sweep.errors import PlacementError
from sweep.trial import Resources

__all__ = ["Placement", "machine_cpus", "machine_gpus", "machine_memory"]

_UNIT = 1_000_000  # a GPU or a CPU in parts: sums of fractions must come out even


class _Need(NamedTuple):
    cpus: int
    gpus: int
    memory: int


@final
@dataclass(slots=True, eq=False)
class _Waiter:
    need: _Need
    event: anyio.Event = field(default_factory=anyio.Event)
    gpus: tuple[str, ...] | None = None


@final
class Placement:
    """Admission to a machine: first come, first served, whole requests only, so nothing starves or deadlocks.

    A request that can never be met is refused at once. One CPU or less is not counted: how many such
    tasks run at once is what ``workers`` says, and the operating system shares the cores among them.

    Args:
        cpus: CPU cores.
        gpus: Names of the GPUs, as in ``CUDA_VISIBLE_DEVICES``.
        memory: Bytes, or None if unknown (then memory is not counted).
        slots: Tasks at once, or None for any number.

    Example:
        >>> async def main() -> tuple[str, ...]:
        ...     placement = Placement(cpus=4, gpus=["0", "1"], memory=None)
        ...     async with placement.hold(Resources(gpus=0.5)), placement.hold(Resources(gpus=1)) as gpus:
        ...         return gpus
        >>> anyio.run(main)
        ('1',)
    """

    def __init__(self, *, cpus: int, gpus: Sequence[str], memory: int | None, slots: int | None = None) -> None:
        self._cpus, self._memory, self._slots = cpus, memory, slots
        self._free = {name: _UNIT for name in gpus}
        self._left = _Need(cpus * _UNIT, 0, memory or 0)
        self._held = 0
        self._waiting: deque[_Waiter] = deque()

    def check(self, resources: Resources, what: str = "a task") -> None:
        """Refuse what can never be met.

        Raises:
            PlacementError: More is asked for than there is.
        """
        gpus = len(self._free)
        if resources.cpus > self._cpus:
            raise PlacementError(what, f"{resources.cpus:g} cpus", f"{self._cpus} cpus")
        if resources.gpus > gpus:
            raise PlacementError(what, f"{resources.gpus:g} gpus", f"{gpus} gpus")
        if resources.gpus > 1 and resources.gpus != int(resources.gpus):
            raise PlacementError(what, f"{resources.gpus:g} gpus", "a part of one gpu, or whole ones")
        if self._memory is not None and (resources.memory or 0) > self._memory:
            raise PlacementError(what, f"{resources.memory} bytes of memory", f"{self._memory} bytes")

    @asynccontextmanager
    async def hold(self, resources: Resources, what: str = "a task") -> AsyncIterator[tuple[str, ...]]:
        """Hold resources, waiting for them if others have them; gives the names of the GPUs.

        Raises:
            PlacementError: More is asked for than there is.
        """
        self.check(resources, what)
        memory = 0 if self._memory is None else int(resources.memory or 0)
        cpus = round(resources.cpus * _UNIT) if resources.cpus > 1 else 0
        need = _Need(cpus, round(resources.gpus * _UNIT), memory)
        gpus = None if self._waiting else self._take(need)
        if gpus is None:
            gpus = await self._wait(need)
        try:
            yield gpus
        finally:
            self._give_back(need, gpus)

    async def _wait(self, need: _Need) -> tuple[str, ...]:
        waiter = _Waiter(need)
        self._waiting.append(waiter)
        try:
            await waiter.event.wait()
        except BaseException:  # whoever gives up waiting, for whatever reason, stands in nobody's way
            if waiter.gpus is None:
                self._waiting.remove(waiter)
                self._admit()
            else:
                self._give_back(need, waiter.gpus)
            raise
        return waiter.gpus or ()

    def _take(self, need: _Need) -> tuple[str, ...] | None:
        """Take what is needed if it is there now."""
        full = self._slots is not None and self._held >= self._slots
        if full or need.cpus > self._left.cpus or need.memory > self._left.memory:
            return None
        share = min(need.gpus, _UNIT)
        fitting = sorted((free, name) for name, free in self._free.items() if free >= share) if share else []
        wanted = -(-need.gpus // _UNIT)
        if len(fitting) < wanted:
            return None
        gpus = tuple(sorted(name for _, name in fitting[:wanted]))  # the fullest that fits: whole ones stay whole
        for name in gpus:
            self._free[name] -= share
        self._left = _Need(self._left.cpus - need.cpus, 0, self._left.memory - need.memory)
        self._held += 1
        return gpus

    def _give_back(self, need: _Need, gpus: tuple[str, ...]) -> None:
        for name in gpus:
            self._free[name] += min(need.gpus, _UNIT)
        self._left = _Need(self._left.cpus + need.cpus, 0, self._left.memory + need.memory)
        self._held -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and (gpus := self._take(self._waiting[0].need)) is not None:
            waiter = self._waiting.popleft()
            waiter.gpus = gpus
            waiter.event.set()


def machine_cpus() -> int:
    """Return the CPU cores this process may use.

    Example:
        >>> machine_cpus() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_gpus() -> list[str]:
    """Return the GPUs this process may use, named as in ``CUDA_VISIBLE_DEVICES``; no CUDA is touched for it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return names[: names.index("-1")] if "-1" in names else [name for name in names if name]
    driver = Path("/proc/driver/nvidia/gpus")
    if driver.is_dir():
        return [str(index) for index in range(len(list(driver.iterdir())))]
    return list(_listed_gpus())


@cache
def _listed_gpus() -> tuple[str, ...]:
    """Ask the driver's tool, once: cards do not come and go, and to look for it costs 0.1 ms."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603  # our words only
    return tuple(str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU "))


def machine_memory() -> int | None:
    """Return the bytes of memory this process may use, or None where the system does not tell."""
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return min(physical, int(limit)) if limit.isdigit() else physical
