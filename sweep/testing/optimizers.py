"""The contract of optimizers as a test suite: ours pass it, and a plug-in's author can run it.

::

    from sweep.testing.optimizers import OptimizerContract

    class TestMine(OptimizerContract):
        def make(self):
            return MyOptimizer()

Every test is a method that pytest collects. A test that does not apply (``restore`` of an
optimizer without it) passes.
"""
# ruff: noqa: S101  # a test suite asserts; each assert says what was expected

from __future__ import annotations

import inspect
import json
import math
import pickle
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from sweep.optimizers.base import Optimizer
from sweep.space import Choice, Constant, Distribution, Integer, LogUniform, Ordinal, SearchSpace, Uniform
from sweep.trial import Objective, Reason, Result, Source, Status, Trial

__all__ = ["OptimizerContract", "play"]

_SPACE = SearchSpace(
    {
        "lr": LogUniform(1e-4, 1e-1, num=3),
        "depth": Integer(1, 3),
        "kind": Choice(["plain", "residual", None]),
        "momentum": Uniform(0, 0.9, num=2, when=("kind", ["residual", None])),
        "width": Ordinal([16, 32, 64]),
        "bias": Constant(True),
    }
)


def loss(params: Mapping[str, Any]) -> float:
    """Return a smooth loss over the contract's space; its best configuration is ``lr=0.01, depth=2, kind=residual``."""
    total = (math.log10(params["lr"]) + 2) ** 2 + (params["depth"] - 2) ** 2 / 4 + abs(params["width"] - 32) / 64
    total += {"plain": 0.5, "residual": 0.0, None: 0.3}[params["kind"]]
    return float(total + (params.get("momentum", 0.5) - 0.5) ** 2)


def play(
    optimizer: Optimizer,
    n: int,
    score: Callable[[Mapping[str, Any]], float] = loss,
    trials: Sequence[Trial] = (),
) -> list[Trial]:
    """Run up to ``n`` more trials one after the other, as a sweep with one worker does, and return all of them.

    Args:
        optimizer: Set up, and restored from ``trials`` if there are any.
        n: How many.
        score: Maps params to a score.
        trials: What has been run before; numbers go on from there.
    """
    done = list(trials)
    for _ in range(n):
        found = optimizer.suggest(1)
        if not found:
            break
        [trial] = found
        trial.number = len(done)
        end(optimizer, trial, score(trial.params))
        done.append(trial)
    return done


def end(optimizer: Optimizer, trial: Trial, score: float, status: Status = Status.COMPLETED, step: int = 0) -> None:
    """Set a trial's state as the sweep does, and let the optimizer observe it."""
    trial.status, trial.score, trial.step = status, score, step
    trial.reason = {Status.COMPLETED: Reason.COMPLETED, Status.FAILED: Reason.ERROR}.get(status)
    trial.values = (score,)
    trial.error = "raised" if status is Status.FAILED else None
    optimizer.observe(trial, Result(score, trial=trial, step=step, failure=trial.error))


def copies(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials as a store gives them back: equal, and not the same objects."""
    names = ("number", "status", "reason", "score", "values", "step", "cost", "error", "source")
    return [
        Trial(
            dict(trial.params),
            **{name: getattr(trial, name) for name in names},
            notes=json.loads(json.dumps(trial.notes)),
            history=list(trial.history),
        )
        for trial in trials
    ]


def params_of(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return what is compared: the parameters."""
    return [trial.params for trial in trials]


class OptimizerContract(ABC):
    """What every optimizer keeps to. Subclass it, name the class ``Test…``, and give `make`.

    Attributes:
        budget: Trials in a test; lower it for a slow optimizer.
        space: What is searched; one of your own needs a `score` of your own.
        history_free: Whether suggestion ``i`` must depend on seed and ``i`` alone.
        seeded: Whether another seed must give other suggestions.
    """

    budget: ClassVar[int] = 16
    space: ClassVar[SearchSpace] = _SPACE
    history_free: ClassVar[bool] = False
    seeded: ClassVar[bool] = True

    @abstractmethod
    def make(self) -> Optimizer:
        """Return a fresh optimizer, not set up."""

    def score(self, params: Mapping[str, Any]) -> float:
        """Return a configuration's score; lower is better."""
        return loss(params)

    def ready(self, seed: int = 7, mode: Literal["min", "max"] = "min") -> Optimizer:
        """Return a fresh optimizer that is set up."""
        optimizer = self.make()
        optimizer.setup(self.space, [Objective("loss", mode)], seed)
        return optimizer

    def test_suggestions_are_new_trials(self) -> None:
        """``suggest(n)`` returns at most ``n`` trials, pending, without a number, and none for 0."""
        optimizer = self.ready()
        assert optimizer.suggest(0) == [], "suggest(0) must return []"
        trials = optimizer.suggest(3)
        assert isinstance(trials, list), f"suggest returned {trials!r}, expected a list of Trial"
        assert 1 <= len(trials) <= 3, f"suggest(3) returned {len(trials)} trials at the very start"
        for trial in trials:
            assert type(trial) is Trial, f"suggest returned {trial!r}, expected a Trial"
            assert (trial.number, trial.status, trial.source) == (-1, Status.PENDING, Source.OPTIMIZER)
        assert len({id(trial) for trial in trials}) == len(trials), "the same Trial object was returned twice"

    def test_suggestions_lie_inside_the_space(self) -> None:
        """Every parameter that is active is there, in its domain and of its type, and no other."""
        for trial in play(self.ready(), self.budget, self.score):
            self.space.validate(trial.params)
            assert list(trial.params) == list(self.space.validate(trial.params)), "params are not in the space's order"

    def test_pending_trials(self) -> None:
        """Suggestions go on while nothing has come back; results may come in any order."""
        optimizer = self.ready()
        waiting = [trial for _ in range(4) for trial in optimizer.suggest(1)]
        waiting += optimizer.suggest(2)
        for number, trial in enumerate(waiting):
            trial.number = number
        for trial in reversed(waiting):
            self.space.validate(trial.params)
            end(optimizer, trial, self.score(trial.params))
        for trial in optimizer.suggest(2):
            self.space.validate(trial.params)

    def test_batches_do_not_matter_to_pending_trials(self) -> None:
        """``suggest(3)`` at the very start is the same as three times ``suggest(1)``."""
        together, apart = self.ready(), self.ready()
        batch = together.suggest(3)
        singles = [trial for _ in range(len(batch)) for trial in apart.suggest(1)]
        assert params_of(batch) == params_of(singles)

    def test_later_observation_replaces_the_earlier(self) -> None:
        """A paused trial's score counts until its next one."""
        twice, once = self.ready(), self.ready()
        for _ in range(self.budget):
            found, others = twice.suggest(1), once.suggest(1)
            if not found:
                break
            assert params_of(found) == params_of(others)
            [a], [b] = found, others
            end(twice, a, 9.0, Status.FAILED if a.params["depth"] == 1 else Status.PAUSED, step=1)
            end(twice, a, self.score(a.params), step=3)
            end(once, b, self.score(b.params), step=3)

    def test_failures_are_not_scores(self) -> None:
        """NaN, both infinities and failed trials neither raise nor stop the search."""
        optimizer = self.ready()
        for number in range(self.budget):
            found = optimizer.suggest(1)
            if not found:
                break
            [trial] = found
            trial.number = number
            self.space.validate(trial.params)
            bad = [math.nan, math.inf, -math.inf][number % 3]
            if number % 4 == 3:
                end(optimizer, trial, self.score(trial.params))
            else:
                end(optimizer, trial, bad, Status.FAILED if math.isnan(bad) else Status.COMPLETED)

    def test_nothing_but_failures(self) -> None:
        """A search in which every trial fails goes on."""
        optimizer = self.ready()
        for number in range(self.budget // 2):
            for trial in optimizer.suggest(1):
                trial.number = number
                self.space.validate(trial.params)
                end(optimizer, trial, math.nan, Status.FAILED)

    def test_equal_scores(self) -> None:
        """A constant objective, and the same configuration twice, are no trouble."""
        optimizer = self.ready()
        trials = play(optimizer, self.budget // 2, lambda params: 1.0)
        again = Trial(dict(trials[0].params), number=len(trials), source=Source.ENQUEUED)
        end(optimizer, again, 1.0)
        for trial in play(optimizer, 3, lambda params: 1.0, [*trials, again])[-3:]:
            self.space.validate(trial.params)

    def test_huge_scores(self) -> None:
        """Scores of any finite size are no trouble."""
        for scale in (1e300, 1e-300, -1e18):
            trials = play(self.ready(), self.budget // 2 + 1, lambda params, s=scale: s * self.score(params))  # type: ignore[misc]  # the default binds the loop's value
            for trial in trials:
                self.space.validate(trial.params)

    def test_trials_of_others(self) -> None:
        """Results of trials it did not suggest are taken in, from outside the space too."""
        optimizer = self.ready()
        generator = random.Random(5)  # noqa: S311  # reproducibility, not secrecy
        for number in range(6):
            params = self.space.sample(generator)
            end(optimizer, Trial(params, number=number, source=Source.ENQUEUED), self.score(params))
        end(optimizer, Trial({"elsewhere": 1}, number=6, source=Source.ENQUEUED), 0.0)
        for trial in optimizer.suggest(2):
            self.space.validate(trial.params)

    def test_same_seed_same_suggestions(self) -> None:
        """The search is a function of seed and results."""
        one, two = (params_of(play(self.ready(), self.budget, self.score)) for _ in range(2))
        assert one == two, "two optimizers with the same seed and the same results went different ways"
        if self.seeded:
            other = params_of(play(self.ready(seed=8), self.budget, self.score))
            assert one != other, "another seed changed nothing"

    def test_orientation(self) -> None:
        """Minimising f and maximising -f give the same suggestions."""
        down = play(self.ready(), self.budget, self.score)
        up = play(self.ready(mode="max"), self.budget, lambda params: -self.score(params))
        assert params_of(down) == params_of(up)

    def test_restore_equals_having_lived_through_it(self) -> None:
        """An optimizer that is given a history goes on as the one that made it."""
        if not hasattr(self.make(), "restore"):
            return
        lived = self.ready()
        history = play(lived, self.budget * 2 // 3, self._sometimes)
        restored = self.ready()
        restored.restore(copies(history))  # type: ignore[attr-defined]  # optional in the protocol
        rest = self.budget - len(history)
        assert params_of(play(lived, rest, self._sometimes)) == params_of(play(restored, rest, self._sometimes))

    def test_restore_with_open_trials(self) -> None:
        """Pending and running trials, and those of an earlier sweep, are part of a history."""
        if not hasattr(self.make(), "restore"):
            return
        optimizer = self.ready()
        history = play(optimizer, 5, self.score)
        for number, trial in enumerate(optimizer.suggest(2), start=len(history)):
            trial.number, trial.status = number, Status.RUNNING
            history.append(trial)
        earlier = copies(play(self.ready(seed=9), 4, self.score))
        for trial in earlier:
            trial.source = Source.EARLIER
        restored = self.ready()
        restored.restore([*earlier, *copies(history)])  # type: ignore[attr-defined]  # optional in the protocol
        for trial in restored.suggest(2):
            self.space.validate(trial.params)
        open_again = copies(history)[-1]
        if open_again.status is Status.RUNNING:
            end(restored, open_again, self.score(open_again.params))
        for trial in restored.suggest(1):
            self.space.validate(trial.params)

    def test_pickling(self) -> None:
        """A pickled copy goes on as the original does."""
        optimizer = self.ready()
        history = play(optimizer, self.budget // 2, self.score)
        copy = pickle.loads(pickle.dumps(optimizer))  # noqa: S301  # its own pickle
        assert params_of(play(copy, 3, self.score, history)) == params_of(play(optimizer, 3, self.score, history))

    def test_notes_are_json(self) -> None:
        """What a trial carries for its optimizer survives the journal."""
        for trial in play(self.ready(), self.budget, self.score):
            assert json.loads(json.dumps(trial.notes, allow_nan=False)) == trial.notes

    def test_global_randomness_is_left_alone(self) -> None:
        """The generators of random, numpy and torch are neither read nor advanced."""
        play(self.ready(), 2, self.score)  # whatever is imported on first use
        before = _global_states()
        one = params_of(play(self.ready(), self.budget, self.score))
        assert _global_states() == before, "a global random generator was advanced"
        random.seed(99)
        try:
            if "numpy" in sys.modules:
                sys.modules["numpy"].random.seed(99)
            two = params_of(play(self.ready(), self.budget, self.score))
        finally:
            random.setstate(before["random"])
            if "numpy" in sys.modules:
                sys.modules["numpy"].random.set_state(before["numpy"])
        assert one == two, "suggestions depend on a global random generator"

    def test_exhaustion(self) -> None:
        """A finite optimizer gives out its grid once, each combination, and then ``[]`` for good."""
        optimizer = self.ready()
        if not optimizer.finite:
            return
        total = self.space.grid_size()
        found = [trial for _ in range(total) for trial in optimizer.suggest(3)]
        assert len({json.dumps(trial.params, sort_keys=True) for trial in found}) == len(found) == total
        assert optimizer.suggest(2) == [], "an exhausted optimizer must go on returning []"

    def test_history_free(self) -> None:
        """Where it is promised: suggestion ``i`` depends on seed and ``i``, not on results or batches."""
        if not self.history_free:
            return
        serial = params_of(play(self.ready(), 9, self.score))
        other = params_of(play(self.ready(), 9, lambda params: -self.score(params)))
        optimizer = self.ready()
        batches = params_of([*optimizer.suggest(4), *optimizer.suggest(1), *optimizer.suggest(4)])
        assert serial == other == batches

    def test_tunable(self) -> None:
        """``TUNABLE`` names constructor arguments and gives each a distribution."""
        cls = type(self.make())
        takes = inspect.signature(cls).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
        for name, part in cls.TUNABLE.items():
            assert isinstance(part, Distribution), f"TUNABLE[{name!r}] is {part!r}, expected a distribution"
            assert name in takes or anything, f"TUNABLE[{name!r}] is no argument of {cls.__name__}"
        SearchSpace(cls.TUNABLE)

    def _sometimes(self, params: Mapping[str, Any]) -> float:
        return math.nan if params["depth"] == 3 else self.score(params)


def _global_states() -> dict[str, Any]:
    """Return what the global generators would give next, without advancing them."""
    states: dict[str, Any] = {"random": random.getstate()}
    if "numpy" in sys.modules:
        state = sys.modules["numpy"].random.get_state()
        states["numpy"] = (state[0], state[1].tolist(), *state[2:])
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].random.get_rng_state().tolist()
    return states
