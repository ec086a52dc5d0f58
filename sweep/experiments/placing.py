"""Where the functions run that a trial's pipeline or experiment comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sweep.context import Session
from sweep.executors.base import Executor, Task
from sweep.experiments.objective import Objective, PipelineObjective
from sweep.pipeline.runtime import Activation, Place
from sweep.trial import Resources

__all__ = ["placing"]


def placing(
    executor: Executor, objective: Objective, session: Session, resources: Resources, facts: Mapping[str, object], directory: Path
) -> Place | None:
    """Return where the leaf functions of an orchestrating objective are to run; None = where they are called."""
    if objective.is_leaf or (executor.in_process and not isinstance(objective, PipelineObjective)):
        return None

    async def place(act: Activation, function: Callable[..., object], kwargs: Mapping[str, object], context: str | None) -> object:
        wanted = act.step.hooks.get("resources") or resources
        own = {**facts, "path": act.path, "attempt": act.attempt}
        return await executor.run(Task(function, kwargs, context, wanted, own, directory, directory), session)

    return Place(place, apart=not executor.in_process)
