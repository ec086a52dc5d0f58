"""Every sampler that Optuna ships, over our history instead of its storage."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, final

from sweep.errors import MissingExtra, StrategyError, UnknownName, did_you_mean
from sweep.optimizers.history import ModelOptimizer, Proposal, Record, State
from sweep.optimizers.seeding import own_seed
from sweep.space import Choice, Distribution, Integer, Params, SearchSpace
from sweep.trial import Status, Trial

if TYPE_CHECKING:
    import optuna

    from sweep.optimizers.optuna_study import Axis, Storage

__all__ = ["OptunaOptimizer"]

Constraints = Callable[[Trial], Sequence[float]]

_PRIVATE_NOTE = 256  # a text longer than this is a sampler's pickled state, not a note
_SHARED_PARAMS = "relative_params:"  # how parallel Optuna workers tell each other; we know the parameters anyway


@final
class OptunaOptimizer(ModelOptimizer):
    """Search with a sampler of Optuna.

    Pending trials are running trials to the sampler (TPE then uses the constant liar); a trial that paused
    or was stopped is a pruned one with its latest score; one that failed or diverged is a failed one.
    All objectives are turned so that lower is better. Suggestion ``i`` draws from generators seeded with the
    sweep's seed and ``i``, never from a running stream.

    Args:
        search_space: What to search; None: the sweep's.
        sampler: Name of a sampler, with or without "Sampler" (``"TPE"``, ``"CmaEs"``, ``"GP"``, ``"NSGAII"``,
            ``"NSGAIII"``, ``"QMC"``, ``"Random"``, ``"BruteForce"``, ``"Grid"``, ``"PartialFixed"``), or an Optuna
            sampler, which is copied.
        **sampler_options: Constructor arguments of the sampler named. ``constraints_func`` takes our `Trial`, with
            params and metrics, and returns numbers, feasible at <= 0; it works with any sampler that knows constraints.

    Raises:
        MissingExtra: At ``setup``: Optuna, or a package that the sampler needs, is not installed.
        UnknownName: Optuna has no such sampler.
        StrategyError: The sampler has no such option; at ``setup``: it refuses one's value.

    Example:
        >>> from sweep.space import SearchSpace, Uniform
        >>> from sweep.trial import Result
        >>> optimizer = OptunaOptimizer(SearchSpace({"x": Uniform(-1, 1)}), sampler="TPE", n_startup_trials=5)
        >>> for _ in range(20):
        ...     [trial] = optimizer.suggest(1)
        ...     optimizer.observe(trial, Result(trial.params["x"] ** 2))
        >>> abs(optimizer.suggest(1)[0].params["x"]) < 1
        True
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {
        "sampler": Choice(["TPE"]),
        "n_startup_trials": Integer(5, 30),
        "n_ei_candidates": Integer(12, 96),
    }

    def __init__(
        self,
        search_space: Mapping[str, object] | None = None,
        sampler: str | optuna.samplers.BaseSampler = "TPE",
        **sampler_options: Any,
    ) -> None:
        super().__init__(search_space)
        self.sampler = sampler
        self.sampler_options = sampler_options
        if not isinstance(sampler, str):
            if isinstance(sampler, type) or not hasattr(sampler, "sample_relative"):
                raise StrategyError(f"OptunaOptimizer(sampler={sampler!r}): expected a name, such as 'TPE', or an Optuna sampler")
            if sampler_options:
                raise StrategyError(f"sampler={sampler!r} has its options already; drop {sorted(sampler_options)}")
        elif (sampler_options or sampler != "TPE") and find_spec("optuna") is not None:
            _check_options(sampler, sampler_options)

    def _begin(self) -> None:
        super()._begin()
        self._study: _Study | None = None
        self._ready()

    def _ready(self) -> _Study:
        """Return the study, made from the history if need be."""
        if self._study is None:
            self._study = _Study(self.space, len(self._objectives), self._seed, self.sampler, self.sampler_options)
            for record in self._history.records:
                self._study.add(record)
        return self._study

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_study": None}  # made again from the history, which is ours

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take over the trials of an earlier session as data."""
        super().restore(trials)
        self._study = None

    def _proposals(self, first: int, n: int) -> Iterator[Proposal]:
        study = self._ready()
        for index in range(first, first + n):
            proposal = study.propose(index)
            if proposal is None:
                return
            yield proposal

    def _learned(self, record: Record) -> None:
        if self._study is not None:
            self._study.learn(record)


@final
class _Study:
    """An Optuna study over our records.

    Args:
        space: What to search.
        n_objectives: How many, all minimised.
        seed: The sweep's.
        sampler: Name or instance.
        options: Constructor arguments.
    """

    def __init__(
        self,
        space: SearchSpace,
        n_objectives: int,
        seed: int,
        sampler: str | optuna.samplers.BaseSampler,
        options: Mapping[str, Any],
    ) -> None:
        optuna = _import_optuna()
        from sweep.optimizers.optuna_study import Storage, make_axes

        self._space, self._seed = space, seed
        self._axes: dict[str, Axis] = make_axes(space)
        arguments = dict(options)
        self._constraints: Constraints | None = arguments.pop("constraints_func", None)
        fixed_seed = own_seed(seed, 0, "optuna") % 2**32
        if isinstance(sampler, str):
            self._blank = _make_sampler(sampler, arguments, fixed_seed, self._axes, space)
        else:
            self._blank = sampler
        self._forget()
        self._size = _size(self._sampler, space)
        minimize = optuna.study.StudyDirection.MINIMIZE
        self._storage: Storage = Storage([minimize] * n_objectives)
        self._study = optuna.Study("sweep", self._storage, sampler=self._sampler, pruner=optuna.pruners.NopPruner())
        self._numbers: dict[tuple[str, int], int] = {}  # whose record -> number of its Optuna trial

    def _forget(self) -> None:
        """Take the sampler as it was made, which has yet to read what space the finished trials share."""
        kind = _import_optuna().search_space.IntersectionSearchSpace
        self._sampler = copy.deepcopy(self._blank)
        self._shared = {id(part): part for part in vars(self._sampler).values() if isinstance(part, kind)}

    def propose(self, index: int) -> Proposal | None:
        """Ask the sampler for suggestion ``index``; None: the sampler's grid is exhausted.

        Raises:
            StrategyError: The sampler refuses several objectives.
        """
        try:
            return self._propose(index)
        except ValueError as error:
            if len(self._study.directions) == 1:
                raise
            kind = type(self._sampler).__name__
            raise StrategyError(f"Optuna's {kind} with several objectives: {error} Take sampler='TPE' or 'NSGAII'.") from error

    def _propose(self, index: int) -> Proposal | None:
        if self._size is not None and index >= self._size:
            return None
        self._storage.written = {}
        # whatever it caches would not survive a restart, but for the space that all finished trials share
        self._study.sampler = copy.deepcopy(self._sampler, dict(self._shared))
        seed = own_seed(self._seed, index, "optuna")
        _reseed(self._study.sampler, [(seed >> shift) % 2**32 for shift in range(0, 160, 32)])
        trial = self._study.ask()
        self._numbers["own", index] = trial.number
        params: Params = {}
        for name, part in self._space.items():
            if not self._space.is_active(name, params):
                continue
            axis = self._axes.get(name)
            params[name] = part.from_unit(0.5) if axis is None else axis.decode(axis.draw(trial, name))
        return params, self._notes()

    def _notes(self) -> dict[str, Any]:
        """Return what the sampler wants to find on trial and study after a restart."""
        notes: dict[str, Any] = {}
        for owner, attributes in self._storage.written.items():
            for name, value in attributes.items():
                if _SHARED_PARAMS in name:
                    continue
                if isinstance(value, str) and len(value) > _PRIVATE_NOTE:
                    notes["replay"] = True
                else:
                    notes.setdefault(owner, {})[name] = value
        return notes

    def add(self, record: Record) -> None:
        """Take in a record of an earlier session or of somebody else's trial."""
        notes = (record.trial.notes or {}) if record.index >= 0 else {}
        params = {name: axis.encode(record.params[name]) for name, axis in self._axes.items() if name in record.params}
        if notes.get("replay"):  # the sampler's private state, made again by asking it once more
            self.propose(record.index)
            trial = self._storage.trials[-1]
            trial.params, trial.distributions = params, {name: self._axes[name].distribution for name in params}
        else:
            trial = self._storage.add(params, self._axes, dict(notes.get("trial", {})))
        self._storage.attributes.update(notes.get("study", {}))
        self._numbers[_whose(record)] = trial.number
        self.learn(record)

    def learn(self, record: Record) -> None:
        """Tell the study a record's latest result."""
        number = self._numbers.get(_whose(record))
        if number is None:
            if record.state is not State.VOID:
                self.add(record)
            return
        trial = self._storage.trials[number]
        before = trial.state
        self._storage.tell(number, record)
        if before.is_finished() and trial.state is not before:
            self._forget()  # whether its parameters count to the space that finished trials share has changed
        if record.state is State.FAILED and record.trial.status is Status.PENDING:  # never run: the sweep found it infeasible
            if type(self._sampler).__name__ == "GPSampler":  # it reads completed trials only
                self._storage.lie(number)
            else:
                self._storage.forbid(number, [1.0])
        elif self._constraints is not None and record.state is State.SEEN:
            self._storage.forbid(number, self._constraints(record.trial))


def _whose(record: Record) -> tuple[str, int]:
    return ("own", record.index) if record.index >= 0 else ("other", id(record))


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra(
            "OptunaOptimizer", "optuna", "optuna", "or use RandomOptimizer, which needs nothing"
        ) from error
    return optuna


def _sampler_class(name: str) -> type[optuna.samplers.BaseSampler]:
    """Return the class of the sampler of that name, with or without "Sampler".

    Raises:
        UnknownName: There is none.
    """
    samplers = _import_optuna().samplers
    classes: dict[str, type[optuna.samplers.BaseSampler]] = {
        cls.__name__.removesuffix("Sampler"): cls
        for cls in (getattr(samplers, exported) for exported in samplers.__all__)
        if isinstance(cls, type) and issubclass(cls, samplers.BaseSampler) and not inspect.isabstract(cls)
    }
    found = classes.get(name.removesuffix("Sampler"))
    if found is None:
        raise UnknownName("Optuna sampler", name, classes)
    return found


def _check_options(name: str, options: Mapping[str, object]) -> None:
    """Refuse a name, or the name of an option, that Optuna does not know.

    Raises:
        UnknownName: There is no such sampler.
        StrategyError: It has no such option.
    """
    cls = _sampler_class(name)
    known = {*inspect.signature(cls).parameters, "constraints_func"}
    unknown = [option for option in options if option not in known]
    if unknown:
        meant = did_you_mean(unknown[0], known) or f"; it takes {', '.join(sorted(known))}"
        raise StrategyError(f"Optuna's {cls.__name__} has no option {unknown[0]!r}{meant}")


def _make_sampler(
    name: str, options: dict[str, Any], seed: int, axes: Mapping[str, Axis], space: SearchSpace
) -> optuna.samplers.BaseSampler:
    """Return the sampler of that name.

    Raises:
        UnknownName: There is none.
        MissingExtra: It needs a package that is not installed.
        StrategyError: It refuses its options.
    """
    cls = _sampler_class(name)
    short = cls.__name__.removesuffix("Sampler")
    known = inspect.signature(cls).parameters
    defaults = {"seed": seed}
    if short in ("CmaEs", "GP", "QMC"):  # said in the documentation, not once for every trial
        defaults["warn_independent_sampling"] = False
    arguments = {key: value for key, value in defaults.items() if key in known} | options
    if short == "Grid" and "search_space" not in arguments:
        arguments["search_space"] = {key: [axis.encode(v) for v in _grid(space, key)] for key, axis in axes.items()}
    try:
        # not by calling the class: that an interface of Optuna's may change is nothing to one who names a sampler here
        sampler: optuna.samplers.BaseSampler = cls.__new__(cls)
        inspect.unwrap(cls.__init__)(sampler, **arguments)
    except ImportError as error:
        raise MissingExtra(f"Optuna's sampler {name!r}", error.name or str(error), "optuna") from error
    except (TypeError, ValueError) as error:
        raise StrategyError(f"Optuna's {cls.__name__} refuses its options: {error}") from error
    return sampler


def _grid(space: SearchSpace, name: str) -> Sequence[object]:
    values = space[name].grid()
    if values is None:
        raise StrategyError(f"a grid needs a number of values for {name!r}: write num= in its distribution")
    return values


def _size(sampler: optuna.samplers.BaseSampler, space: SearchSpace) -> int | None:
    """Return how many suggestions there are before they repeat, or None."""
    samplers = _import_optuna().samplers
    if isinstance(sampler, samplers.GridSampler):
        return int(sampler._n_min_trials)
    if isinstance(sampler, samplers.BruteForceSampler):
        continuous = [name for name, part in space.items() if part.continuous]
        if continuous:
            raise StrategyError(
                f"BruteForceSampler cannot count the values of {continuous}; use GridOptimizer with num="
            )
        return space.grid_size()
    return None


def _reseed(sampler: object, words: list[int]) -> None:
    """Seed every generator of a sampler, and of the samplers inside it, from ``words`` of 32 bits."""
    import numpy as np

    for place, value in enumerate(vars(sampler).values()):
        generator = getattr(value, "rng", value)  # Optuna wraps its generators in an object with this one attribute
        if isinstance(generator, np.random.RandomState):
            generator.seed([*words, place])
        elif isinstance(value, _import_optuna().samplers.BaseSampler):
            _reseed(value, [*words, place])
