"""A curriculum that runs a whole sweep for each task."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from sweep import Context, Experiment, LogUniform, Pipeline, SweepExperiment
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler


@dataclass
class Task:
    """What is to be learned: the harder, the smaller the best learning rate."""

    name: str
    difficulty: float


class CurriculumExperiment(Experiment):
    """Curriculum that runs a sweep for each task."""

    task_idx: int = 0

    def pipeline(self) -> Pipeline:
        """Return the stages."""
        return (
            Pipeline()
            .stage("init", self.setup_curriculum)
            .through(tasks=list[Task])
            .loop_while(lambda ctx: ctx.task_idx < len(ctx.tasks))
            .stage("select_task", self.get_next_task)
            .through(current_task=Task)
            # This stage runs a complete sweep experiment!
            .stage("optimize_task", self.run_task_sweep)
            .through(task_results=dict)
            .stage("check_mastery", self.evaluate_progress)
            .through(should_advance=bool)
            .end_loop()
        )

    def setup_curriculum(self) -> list[Task]:
        """Return the tasks in order."""
        return [Task("walk", 1.0), Task("run", 2.0), Task("jump", 4.0)]

    def get_next_task(self, tasks: list[Task], task_idx: int) -> Task:
        """Return the task that is due."""
        return tasks[task_idx]

    async def run_task_sweep(self, input):
        """Each task gets its own optimization."""
        sweep = SweepExperiment(
            optimizer=self.create_optimizer_for_task(input.current_task),
            scheduler=ASHAScheduler(max_epochs=9),
            name=input.current_task.name,
        )
        return await sweep.run(budget=9)

    def create_optimizer_for_task(self, task: Task) -> RandomOptimizer:
        """Search where the task's best rate lies."""
        return RandomOptimizer({"lr": LogUniform(1e-3 / task.difficulty, 1e-1)})

    def train(self, ctx: Context, lr: float) -> None:
        """What the sweeps inside optimise: they are given no objective of their own."""
        for epoch in range(1, 10):
            ctx.report(epoch, loss=abs(lr - 0.01) + 1 / epoch)

    def evaluate_progress(self, task_results: dict, task_idx: int, current_task: Task) -> dict:
        """Advance; the loop reads ``task_idx``, so it is returned."""
        print(f"{current_task.name}: best loss {task_results['best_score']:.3f} of {task_results['n_trials']} trials")
        return {"should_advance": True, "task_idx": task_idx + 1}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        result = CurriculumExperiment(store=Path(place) / "sweep.db").run()
    print(f"{len(result.children)} sweeps inside: {', '.join(child.path for child in result.children)}")
