"""Ax: Bayesian optimisation with BoTorch, through Ax's client API."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

from sweep.errors import MissingExtra, StrategyError, UnknownName
from sweep.optimizers.history import ModelOptimizer, Proposal, Record, State
from sweep.optimizers.seeding import own_seed
from sweep.optimizers.sobol import sobol_points
from sweep.space import Choice, Distribution, Integer, LogInteger, Ordinal, Params
from sweep.trial import Trial

if TYPE_CHECKING:
    from ax.api.client import Client
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
    from ax.generation_strategy.generation_strategy import GenerationStrategy

__all__ = ["AxOptimizer"]

_ACQUISITIONS = {
    "EI": "qLogExpectedImprovement",
    "NEI": "qLogNoisyExpectedImprovement",
    "PI": "qProbabilityOfImprovement",
    "UCB": "qUpperConfidenceBound",
    "EHVI": "qLogExpectedHypervolumeImprovement",
    "NEHVI": "qLogNoisyExpectedHypervolumeImprovement",
}
_FAR = 1e3  # spans of the better half at which a bad loss is cut off


@final
class AxOptimizer(ModelOptimizer):
    """Search with Ax: a Gaussian process and an acquisition function of BoTorch, 1 to 3 s for a suggestion.

    It begins with points of a Sobol sequence of ours; from then on ``suggest(n)`` fits once and chooses n points
    together. Pending trials are running trials to Ax, failed ones failed trials. An inactive parameter is
    held at its middle. A bad loss far beyond the better half is cut off. BoTorch draws from the global generators
    of torch; Ax's own ``with_rng_seed`` seeds them for the length of a suggestion and puts them back, so nothing may
    draw from them in another thread at that moment.

    Args:
        search_space: What to search; None: the sweep's.
        acquisition: ``"EI"``, ``"NEI"``, ``"PI"``, ``"UCB"``, or for several objectives ``"EHVI"``, ``"NEHVI"``;
            None: Ax's choice.
        n_initial: Quasi-random trials at the start; each result of another trial (earlier, enqueued) spares one.
        constraints_func: Takes a `Trial` with params and metrics and returns numbers, always as many,
            feasible at <= 0; modelled as outcomes.

    Raises:
        UnknownName: There is no such acquisition.
        StrategyError: ``n_initial`` is below 1.
        MissingExtra: At ``setup``: ax-platform is not installed.
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {"acquisition": Choice(["EI", "NEI", "UCB"]), "n_initial": Integer(3, 20)}

    def __init__(
        self,
        search_space: Mapping[str, object] | None = None,
        acquisition: str | None = None,
        *,
        n_initial: int = 5,
        constraints_func: Callable[[Trial], Sequence[float]] | None = None,
    ) -> None:
        super().__init__(search_space)
        if acquisition is not None and acquisition not in _ACQUISITIONS:
            raise UnknownName("acquisition", acquisition, _ACQUISITIONS)
        if n_initial < 1:
            raise StrategyError(f"AxOptimizer(n_initial={n_initial}): expected a whole number >= 1")
        self.acquisition, self.n_initial, self.constraints_func = acquisition, n_initial, constraints_func

    def _begin(self) -> None:
        super()._begin()
        _import_ax()

    def _proposals(self, first: int, n: int) -> Iterator[Proposal]:
        known = sum(record.state is State.SEEN for record in self._history.records)
        given = self._history.n_given
        for index in range(first, first + n):
            if index + given >= self.n_initial and known >= 2:
                yield from self._modelled(index, first + n - index)
                return
            yield self._spread(index), {}

    def _spread(self, index: int) -> Params:
        seed = own_seed(self._seed, 0, "ax")
        [point] = sobol_points(len(self.space.dimensions), index, 1, seed)
        return self.space.from_unit(point)

    def _modelled(self, index: int, n: int) -> Iterator[Proposal]:
        """Yield ``n`` points chosen together; the client is made anew, so nothing depends on how it came about."""
        ax = _import_ax()
        axes = {name: _Axis(name, self.space[name]) for name in self.space.dimensions}
        with ax.with_rng_seed(own_seed(self._seed, index, "ax") % 2**32):
            client = self._client(ax, axes)
            for found in client.get_next_trials(n).values():
                yield self._params(axes, found), {}

    def _params(self, axes: Mapping[str, _Axis], found: Mapping[str, Any]) -> Params:
        params: Params = {}
        for name, part in self.space.items():
            if self.space.is_active(name, params):
                params[name] = axes[name].decode(found[name]) if name in axes else part.from_unit(0.5)
        return params

    def _client(self, ax: _Ax, axes: Mapping[str, _Axis]) -> Client:
        """Return a client that knows the history."""
        seen = [record for record in self._history.records if record.state is State.SEEN]
        told: dict[int, dict[str, float]] = {}
        for record, losses in zip(seen, _scaled([record.losses for record in seen]), strict=True):
            told[id(record)] = {f"loss{i}": loss for i, loss in enumerate(losses)} | self._bounds(record)
        client = self._experiment(ax, axes, sorted({name for data in told.values() for name in data}))
        for record in self._history.records:
            if record.state is State.VOID:
                continue
            number = client.attach_trial({name: axis.encode(record.trial.params) for name, axis in axes.items()})
            if record.state is State.FAILED:
                client.mark_trial_failed(number)
            elif record.state is State.SEEN:
                client.complete_trial(number, told[id(record)])
        return client

    def _experiment(self, ax: _Ax, axes: Mapping[str, _Axis], outcomes: Sequence[str]) -> Client:
        """Return a client without trials."""
        client = ax.Client()
        client.configure_experiment([axis.config(ax) for axis in axes.values()])
        names = [f"loss{i}" for i in range(len(self._objectives))]
        limits = [f"{name} <= 0" for name in outcomes if name not in names]
        if len(names) > 1:  # what lies worse than a span beyond the median is no part of the front
            limits += [f"{name} <= 1" for name in names]
        client.configure_optimization(", ".join(f"-{name}" for name in names), outcome_constraints=limits)
        client.set_generation_strategy(ax.strategy(_ACQUISITIONS.get(self.acquisition or "")))
        return client

    def _bounds(self, record: Record) -> dict[str, float]:
        """Return the constraint outcomes of a trial by name."""
        if self.constraints_func is None:
            return {}
        return {f"constraint{i}": float(g) for i, g in enumerate(self.constraints_func(record.trial))}


@final
class _Axis:
    """One parameter as Ax sees it: a place in [0, 1], a whole number, or a category by its place."""

    def __init__(self, name: str, part: Distribution) -> None:
        self._name, self._part = name, part
        self._count = 0
        if isinstance(part, Choice | Ordinal):
            self._count = len(part.options)
        elif isinstance(part, Integer):
            self._count = (part.high - part.low) // part.step + 1

    def config(self, ax: _Ax) -> ChoiceParameterConfig | RangeParameterConfig:
        """Return Ax's definition of the parameter."""
        part = self._part
        if isinstance(part, Choice):
            options = [str(place) for place in range(self._count)]
            return ax.Choice(self._name, options, "str", is_ordered=False)
        if self._count:
            return ax.Range(self._name, (0, self._count - 1), "int")
        if isinstance(part, LogInteger):
            return ax.Range(self._name, (part.low, part.high), "int", scaling="log")
        return ax.Range(self._name, (0.0, 1.0), "float")

    def encode(self, params: Params) -> float | str:
        """Return our value as Ax's; of an inactive parameter the middle."""
        part, is_active = self._part, self._name in params
        if isinstance(part, LogInteger):
            return int(params[self._name]) if is_active else part.from_unit(0.5)
        unit = part.to_unit(params[self._name]) if is_active else 0.5
        place = min(int(unit * self._count), self._count - 1)
        return str(place) if isinstance(part, Choice) else place if self._count else unit

    def decode(self, value: float | str) -> object:
        """Return Ax's value as ours."""
        if isinstance(self._part, LogInteger):
            return int(value)
        return self._part.from_unit((int(value) + 0.5) / self._count if self._count else float(value))


def _scaled(losses: Sequence[tuple[float, ...]]) -> Iterator[tuple[float, ...]]:
    """Yield losses in spans between median and best, 0 at the median, cut off where they are far worse."""
    columns = []
    for column in zip(*losses, strict=True):
        middle = statistics.median(column)
        span = middle - min(column)
        span = span if 0 < span < math.inf else 1.0
        columns.append([min(max((loss - middle) / span, -_FAR), _FAR) for loss in column])
    return zip(*columns, strict=True)


@final
class _Ax:
    """The names of Ax that are used, imported once."""

    def __init__(self) -> None:
        from ax.adapter.registry import Generators
        from ax.api.client import Client
        from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
        from ax.generation_strategy.generation_node import GenerationNode
        from ax.generation_strategy.generation_strategy import GenerationStrategy
        from ax.generation_strategy.generator_spec import GeneratorSpec
        from ax.utils.common.random import with_rng_seed

        self.Client, self.Choice, self.Range = Client, ChoiceParameterConfig, RangeParameterConfig
        self.with_rng_seed = with_rng_seed
        self._parts = GenerationStrategy, GenerationNode, GeneratorSpec, Generators

    def strategy(self, acquisition: str | None) -> GenerationStrategy:
        """Return Ax's plan: nothing but the Gaussian process with that acquisition, or Ax's own choice."""
        import botorch.acquisition as single
        import botorch.acquisition.multi_objective as several

        plan, node, spec, generators = self._parts
        options = {}
        if acquisition is not None:
            options["botorch_acqf_class"] = getattr(single, acquisition, None) or getattr(several, acquisition)
        specs = [spec(generators.BOTORCH_MODULAR, generator_kwargs=options)]
        return plan(name="sweep", nodes=[node(name="BoTorch", generator_specs=specs)])


def _import_ax() -> _Ax:
    storage = logging.getLogger("ax.storage.sqa_store.with_db_settings_base")
    storage.disabled = True  # it announces that it was imported
    try:
        ax = _Ax()
    except ImportError as error:
        raise MissingExtra("AxOptimizer", "ax-platform", "ax", "or use BayesianOptimizer or OptunaOptimizer") from error
    finally:
        storage.disabled = False
    # it announces every trial that it is told of; warnings still come through
    logging.getLogger("ax.api.client").setLevel(logging.WARNING)
    return ax
