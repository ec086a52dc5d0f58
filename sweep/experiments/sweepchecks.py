"""What can be wrong with a sweep's arguments, by themselves and together."""

from __future__ import annotations

from typing import Any

from sweep.errors import ContractError, PlacementError, did_you_mean
from sweep.executors.base import Executor
from sweep.schedulers.base import Scheduler
from sweep.trial import Resources

__all__ = ["count_problems", "placed", "strategy_problems"]


def count_problems(sweep: Any) -> list[str]:
    """Return what is wrong with the numbers."""
    problems: list[str] = []
    for name, least in (("workers", 1), ("repeats", 1), ("retries", 0), ("max_failures", 0), ("seed", 0)):
        value = getattr(sweep, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            problems.append(f"{name}={value!r}: expected a whole number >= {least}")
    if sweep.resources is not None and not isinstance(sweep.resources, Resources):
        problems.append(f"resources={sweep.resources!r}: expected Resources(cpus=…, gpus=…)")
    problems += [f"constraints: {one!r} is not callable" for one in sweep.constraints if not callable(one)]
    return problems + _goal_problems(sweep)


def _goal_problems(sweep: Any) -> list[str]:
    """Return what is wrong with ``metric`` and ``mode``."""
    metrics = sweep.metric if isinstance(sweep.metric, list | tuple) else [sweep.metric]
    if any(not isinstance(one, str) for one in metrics) and sweep.metric is not None:
        return [f"metric={sweep.metric!r}: expected a name, a list of names, or None"]
    problems = [f"metric={sweep.metric!r}: the same metric twice"] if len(set(metrics)) < len(metrics) else []
    modes = [sweep.mode] if isinstance(sweep.mode, str) else list(sweep.mode)
    if not isinstance(sweep.mode, str) and len(modes) != len(metrics):
        problems.append(f"mode={sweep.mode!r}: {len(modes)} modes for {len(metrics)} metrics")
    problems += [
        f"mode={mode!r}: expected 'min' or 'max'{did_you_mean(str(mode), ('min', 'max'))}"
        for mode in modes
        if mode not in ("min", "max")
    ]
    return problems


def strategy_problems(sweep: Any, trials: int | None = None) -> list[str]:
    """Return what is wrong with the strategies by themselves, and with a budget of so many trials."""
    problems: list[str] = []
    optimizer, scheduler = sweep.optimizer, sweep.scheduler
    if isinstance(optimizer, type) or (
        optimizer is not None and not (hasattr(optimizer, "suggest") and hasattr(optimizer, "observe"))
    ):
        problems.append(
            f"optimizer={optimizer!r}: expected an object with suggest(n) and observe(trial, result), such as RandomOptimizer()"
        )
    if isinstance(scheduler, type) or (scheduler is not None and not hasattr(scheduler, "should_stop")):
        problems.append(f"scheduler={scheduler!r}: expected an object with should_stop(trial), such as ASHAScheduler()")
    if not problems and isinstance(scheduler, Scheduler):
        objection = scheduler.objection(finite=bool(getattr(optimizer, "finite", False)), trials=trials)
        problems += [] if objection is None else [objection]
    return problems


def placed(sweep: Any) -> tuple[Executor, int]:
    """Return the executor of a sweep and its number of workers.

    Raises:
        ContractError: Sweep and executor differ about the workers.
        PlacementError: A trial asks for more than there is.
    """
    from sweep.executors import make_executor

    wrapped = getattr(sweep.scheduler, "executor", None)
    if sweep.executor == "inline" and isinstance(wrapped, str | Executor):
        executor = make_executor(wrapped)
    else:
        executor = make_executor(sweep.executor)
    if sweep.workers is not None and executor.workers is not None and sweep.workers != executor.workers:
        problem = f"workers={sweep.workers}, but its executor has workers={executor.workers}; give one of the two"
        raise ContractError(sweep.name, [problem])
    asked = sweep.resources
    have = None if asked is None else executor.capacity()  # looking for GPUs takes its time
    for what in ("cpus", "gpus", "memory"):
        wanted, available = getattr(asked, what, None), getattr(have, what, None)
        if wanted is not None and available is not None and wanted > available:
            raise PlacementError(f"sweep {sweep.name!r}: a trial", f"{wanted:g} {what}", f"{available:g} {what}")
    return executor, sweep.workers or executor.workers or 1
