"""Every optimizer of Nevergrad's registry, by name."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import ClassVar, Protocol, final

from sweep.errors import MissingExtra, StrategyError, UnknownName
from sweep.optimizers.history import ModelOptimizer, Proposal, Record, State
from sweep.optimizers.seeding import own_seed
from sweep.space import Choice, Distribution, Params, SearchSpace
from sweep.trial import Trial

__all__ = ["NevergradOptimizer"]

_BUDGET = 100  # without a number of trials many of its optimizers cannot begin
_HUGE = 1e20  # beyond this Nevergrad cuts losses off itself, with a warning for each


@final
class NevergradOptimizer(ModelOptimizer):
    """Search with an optimizer of Nevergrad.

    A method that cannot go on before it is told (``"Cobyla"``, ``"SQP"``, …, and ``"NGOpt"`` where it chooses one)
    gives out a trial at a time, however many workers there are; with ``num_workers`` NGOpt chooses one that need not
    wait. A lost trial is told to such a method as the worst, and where a replay has it ask for other points than it
    did, their results stand for those.

    Its optimizers cannot take back a result or be given a history, so a replaced result and a resumed sweep
    replay the trials: asked in order, each told its latest loss before the next is asked. With one worker that is
    exactly what happened; a method that takes its own candidates only is not told of others' trials. A failed trial is
    told as the worst seen before it, an inactive parameter keeps a value that is not used. Nevergrad's own generator is
    seeded anew for each suggestion; but some of its optimizers draw from numpy's global one, which is therefore seeded
    for the length of each call into Nevergrad and put back: nothing may draw from it in another thread at that moment.

    Args:
        search_space: What to search; None: the sweep's.
        optimizer: A name in ``nevergrad.optimizers.registry``. Where ``"NGOpt"`` chooses a metamodel, which numpy 2.4 and
            up does not let Nevergrad compute, the optimizer below the model goes on without it.
        budget: Trials that will be run; ``"NGOpt"`` chooses its method by it, and a one-shot method (``"LHSSearch"``,
            …) is exhausted then. None: 100 is assumed.
        num_workers: Trials that run at once, where known.

    Raises:
        MissingExtra: At ``setup``: Nevergrad is not installed.
        UnknownName: At ``setup``: its registry has no such name.
        StrategyError: ``budget`` or ``num_workers`` is below 1. At ``setup``: the optimizer named is a metamodel and numpy
            2.4 or newer. From any method: Nevergrad's own code fails, or lacks a package.

    Example:
        >>> from sweep.space import SearchSpace, Uniform
        >>> len(NevergradOptimizer(SearchSpace({"x": Uniform(0, 1)}), "OnePlusOne").suggest(2))
        2
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {"optimizer": Choice(["NGOpt", "TwoPointsDE", "CMA", "PSO", "OnePlusOne"])}

    def __init__(
        self,
        search_space: Mapping[str, object] | None = None,
        optimizer: str = "NGOpt",
        *,
        budget: int | None = None,
        num_workers: int = 1,
    ) -> None:
        super().__init__(search_space)
        for name, value in {"budget": budget, "num_workers": num_workers}.items():
            if value is not None and value < 1:
                raise StrategyError(f"NevergradOptimizer({name}={value}): expected a whole number >= 1")
        self.optimizer, self.budget, self.num_workers = optimizer, budget, num_workers

    def _begin(self) -> None:
        super()._begin()
        self._session: _Session | None = None
        self._ready()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_session": None}  # replayed from the history, which is ours

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take over the trials of an earlier session by replaying them."""
        super().restore(trials)
        self._session = None

    def _ready(self) -> _Session:
        if self._session is None:
            budget = self.budget or _BUDGET
            self._session = _Session(self.space, len(self._objectives), self.optimizer, budget, self.num_workers, self._seed)
            seen = (list(record.losses) for record in self._history.records if record.state is State.SEEN)
            self._session.unknown = next(seen, None)
            for record in self._history.records:
                self._session.replay(record)
        return self._session

    def _learned(self, record: Record) -> None:
        if self._session is not None and not self._session.tell(record):
            self._session = None

    def _proposals(self, first: int, n: int) -> Iterator[Proposal]:
        for index in range(first, first + n):
            session = self._ready()
            waiting = any(record.state is State.PENDING and record.index >= 0 for record in self._history.records)
            if session.is_exhausted(index) or (waiting and session.is_sequential()):
                return
            yield session.ask(index), {}


class _Candidate(Protocol):
    """What Nevergrad proposes."""

    value: Mapping[str, float]


@final
class _Session:
    """One of Nevergrad's optimizers, and which of our trials is which of its candidates.

    Attributes:
        unknown: What a method that cannot go on without an answer is told where no loss is known yet; None: 0.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, name: str, budget: int, workers: int, seed: int) -> None:
        try:
            import nevergrad as ng  # type: ignore[import-untyped]  # it has no types
            import numpy as np
        except ImportError as error:
            raise MissingExtra("NevergradOptimizer", "nevergrad", "nevergrad") from error
        if name not in ng.optimizers.registry:
            raise UnknownName("Nevergrad optimizer", name, ng.optimizers.registry)
        # Nevergrad calls scipy's COBYLA without a tolerance, which is no choice of the user's. The filter stays, for
        # one that comes and goes would take other threads' filters with it; it hides this one sentence and no other.
        warnings.filterwarnings("ignore", r"COBYLA: Invalid RHOEND", UserWarning, r"scipy\._lib\.pyprima\.")
        self._space, self._seed, self._name, self._n_objectives = space, seed, name, n_objectives
        self._not_asked = ng.errors.TellNotAskedNotSupportedError
        one_shot = bool(getattr(ng.optimizers.registry[name], "one_shot", False))
        self._last = budget if one_shot else None
        self._sizes = {
            name: len(part.options)
            for name, part in ((each, space[each]) for each in space.dimensions)
            if isinstance(part, Choice)
        }
        with self._calling(own_seed(seed, 0, "nevergrad start")):
            self._domain = ng.p.Dict(
                **{
                    each: ng.p.Choice(range(self._sizes[each]))
                    if each in self._sizes
                    else ng.p.Scalar(init=0.5, lower=0.0, upper=1.0)
                    for each in space.dimensions
                }
            )
            self._domain.random_state = np.random.RandomState(0)  # its own, seeded for each suggestion
            self._optimizer = ng.optimizers.registry[name](self._domain, budget=budget, num_workers=workers)
            chosen = getattr(self._optimizer, "optim", self._optimizer)  # what NGOpt chose, by dimension and budget
        if type(chosen).__name__ == "_MetaModel" and not _floats_arrays():
            if chosen is self._optimizer:
                raise StrategyError(
                    f"Nevergrad's metamodels, {name!r} among them, fail with this version of numpy (2.4 and up): take "
                    "numpy below 2.4, or name another one, such as NevergradOptimizer(optimizer='CMA')"
                )
            self._optimizer = chosen._optim  # what Nevergrad itself goes on with when its model fails
        self.unknown: list[float] | None = None
        self._is_blind = False  # it was told 0 for want of any loss
        self._candidates: dict[int, _Candidate] = {}
        self._told: set[int] = set()
        self._worst: list[float] | None = None

    @contextmanager
    def _calling(self, seed: int) -> Iterator[None]:
        """Call into Nevergrad; say whose fault it is when that fails."""
        try:
            with _global_generators(seed):
                yield
        except self._not_asked:
            raise
        except Exception as error:
            raise StrategyError(
                f"Nevergrad's optimizer {self._name!r} {_why(error)} ({type(error).__name__}: {error}); "
                "name another one, such as NevergradOptimizer(optimizer='TwoPointsDE')"
            ) from error

    def is_exhausted(self, index: int) -> bool:
        """Return whether there is no suggestion ``index``: a one-shot method has planned them all at the start."""
        return self._last is not None and index >= self._last

    def is_sequential(self) -> bool:
        """Whether the method, or a part of it, would wait for ever if it were asked again before it is told."""
        return _is_sequential(self._optimizer)

    def ask(self, index: int) -> Params:
        """Return the parameters of suggestion ``index``."""
        if self.is_sequential():
            self._answer()
        seed = own_seed(self._seed, index, "nevergrad")
        self._domain.random_state.seed(_words(seed))
        with self._calling(seed):
            candidate = _in_daemon(self._optimizer.ask)
        self._candidates[index] = candidate
        return self._space.from_unit([self._place(name, candidate.value[name]) for name in self._space.dimensions])

    def tell(self, record: Record) -> bool:
        """Tell a result; False: it cannot be told, or taken back, any more."""
        if record.index < 0:
            return self._tell_foreign(record)
        if record.index in self._told or (self._is_blind and record.state is State.SEEN):
            return False
        loss = self._loss(record)
        if loss is not None:
            self._tell(self._candidates[record.index], loss)
            self._told.add(record.index)
        return True

    def replay(self, record: Record) -> None:
        """Ask and tell what was asked and told in an earlier session."""
        if record.index >= 0:
            self.ask(record.index)
            given = self._spawn(record)
            if not self.is_sequential() and self._values(given) != self._values(self._candidates[record.index]):
                self._candidates[record.index] = given  # several workers: it was asked with other results known
        self.tell(record)

    def _values(self, candidate: _Candidate) -> Params:
        return self._space.from_unit([self._place(name, candidate.value[name]) for name in self._space.dimensions])

    def _answer(self) -> None:
        """Tell the worst loss known for what was asked and will not be told: lost trials, and failed ones before any loss."""
        for index in [index for index in self._candidates if index not in self._told]:
            losses = self._worst or self.unknown
            self._is_blind |= losses is None
            self._tell(self._candidates[index], _loss_of(losses or [0.0] * self._n_objectives))
            self._told.add(index)

    def _tell_foreign(self, record: Record) -> bool:
        """Tell the result of somebody else's trial, once."""
        key = -1 - id(record)
        if key in self._told:
            return False
        loss = self._loss(record)
        if loss is not None:
            with suppress(self._not_asked):  # some methods take their own candidates only
                self._tell(self._spawn(record), loss)
            self._told.add(key)
        return True

    def _tell(self, candidate: _Candidate, loss: float | list[float]) -> None:
        with self._calling(own_seed(self._seed, len(self._told), "nevergrad tell")):
            self._optimizer.tell(candidate, loss)

    def _spawn(self, record: Record) -> _Candidate:
        """Return a candidate with a record's parameters."""
        units = dict(zip(self._space.dimensions, self._space.to_unit(record.params), strict=True))
        value = {
            name: min(int(unit * self._sizes[name]), self._sizes[name] - 1) if name in self._sizes else unit
            for name, unit in units.items()
        }
        spawned: _Candidate = self._domain.spawn_child(new_value=value)
        return spawned

    def _loss(self, record: Record) -> float | list[float] | None:
        """Return what to tell, or None: nothing."""
        if record.state is State.SEEN:
            losses = [min(max(loss, -_HUGE), _HUGE) for loss in record.losses]
            worst = self._worst or losses
            self._worst = [max(pair) for pair in zip(worst, losses, strict=True)]
        elif record.state is State.FAILED and self._worst is not None:
            losses = list(self._worst)
        else:
            return None
        return _loss_of(losses)

    def _place(self, name: str, value: float) -> float:
        """Return the unit coordinate of one of Nevergrad's values."""
        size = self._sizes.get(name)
        return min(max(float(value), 0.0), 1.0) if size is None else (int(value) + 0.5) / size


def _is_sequential(optimizer: object) -> bool:
    if getattr(optimizer, "no_parallelization", False):
        return True
    parts = [part for value in vars(optimizer).values() for part in (value if isinstance(value, list) else [value])]
    return any(hasattr(part, "ask") and _is_sequential(part) for part in parts)


def _in_daemon(call: Callable[[], _Candidate]) -> _Candidate:
    """Return what ``call`` does, run in a daemon thread.

    Some methods begin a thread of their own that waits for the next result. As the child of a daemon it is one too,
    and no program has to wait for it to end.
    """
    if threading.current_thread().daemon:
        return call()
    found: Future[_Candidate] = Future()

    def run() -> None:
        try:
            found.set_result(call())
        except BaseException as error:  # noqa: BLE001  # raised by result()
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found.result()


def _why(error: Exception) -> str:
    """Return what kind of failure an error inside Nevergrad is."""
    if isinstance(error, ImportError) or isinstance(error.__cause__, ImportError):
        return "needs a package that is not installed"
    if isinstance(error, TypeError) and not _floats_arrays():
        return "has a metamodel, perhaps, and these need numpy below 2.4"
    return "fails on this space and history"


def _loss_of(losses: list[float]) -> float | list[float]:
    return losses[0] if len(losses) == 1 else losses


def _floats_arrays() -> bool:
    """Whether numpy makes a float of an array of one number, on which Nevergrad's metamodels count."""
    import numpy as np

    try:
        float(np.ones(1))
    except (TypeError, DeprecationWarning):  # from 2.4 on; before that a warning, which may have been made an error
        return False
    return True


def _words(seed: int) -> list[int]:
    return [(seed >> shift) % 2**32 for shift in range(0, 160, 32)]


@contextmanager
def _global_generators(seed: int) -> Iterator[None]:
    """Seed the global generators for the length of one call into Nevergrad, and put them back.

    Several of its optimizers draw from numpy's global generator, which they offer no way to replace.
    """
    import numpy as np

    ours, theirs = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(_words(seed))
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)
