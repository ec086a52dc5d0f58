"""What is said about trials that pause and cannot go on from where they were."""

from __future__ import annotations

from sweep.experiments.objective import FunctionObjective

__all__ = ["PAUSED_WITHOUT_CHECKPOINT", "restart_notice"]

PAUSED_WITHOUT_CHECKPOINT = (
    "a trial has paused that had saved no checkpoint: such trials restart at their first step when they go on; "
    "ctx.save(state) before each report and ctx.load() at the start keep their work (said once)"
)


def restart_notice(objective: object, scheduler: object) -> str | None:
    """Return in one line that paused trials begin anew, where that is known before anything runs, or None.

    Args:
        objective: As `make_objective` returns it, bound to its space.
        scheduler: The sweep's, or None.
    """
    if not isinstance(objective, FunctionObjective) or objective.context_name is not None:
        return None
    if not getattr(scheduler, "pauses", False):
        return None
    return (
        f"objective {objective.name!r} takes no ctx, so it saves no checkpoint: each trial that "
        f"{type(scheduler).__name__} pauses restarts at its first step when it is promoted; take ctx, ctx.save(state) "
        "before each report and ctx.load() at the start"
    )
