"""Ato's ``HyperBand`` and ``DistributedHyperBand``: a function of a config, searched by halving in rounds.

A small face over a sweep: the grid of the spaces is the optimizer, rounds of synchronous successive halving
(arXiv 1603.06560) the scheduler; so a search that was killed goes on where it stopped.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from pathlib import Path
from typing import Any, Literal, final

from sweep.config import ADict, Scope
from sweep.context import Context
from sweep.errors import ConfigError, MissingExtra, SweepError
from sweep.executors.base import Executor
from sweep.experiments.identity import identity_of
from sweep.experiments.sweep import SweepExperiment
from sweep.experiments.sweepresult import SweepResult
from sweep.optimizers.grid import GridOptimizer
from sweep.schedulers.halving import RoundsScheduler
from sweep.schedulers.rungs import round_sizes, training_steps
from sweep.space import SearchSpace, nest
from sweep.trial import Status

__all__ = ["DistributedHyperBand", "HyperBand"]

_TOGETHER = 0.01
"""Seconds for which rank 0 waits for further configurations before it deals out those it has."""


class HyperBand:
    """Halving over the grid of some spaces: all configurations, then the best of them, and so on.

    The decorated function gets the scope's config with a configuration's values in it and the number of the round
    as ``config.__num_halved__`` (from 0); it returns the metric. Each round begins anew; how much longer it trains
    is the function's affair (:meth:`compute_optimized_initial_training_steps`).

    Args:
        scope: Gives the config; its views and command line apply.
        search_spaces: Ato's dictionaries, or distributions.
        halving_rate: Share that goes on, between 0 and 1; need not be one by a whole number.
        num_min_samples: No round is run with fewer configurations.
        mode: ``"max"`` or ``"min"``.
        name: Of the runs; None = the function's.
        store: SQLite file; None = ``$SWEEP_STORE`` or ``./sweep.db``.
        executor: Where the function runs.
        workers: Configurations at once.

    Raises:
        ConfigError: A number out of its range, or fewer configurations than ``num_min_samples``.

    Example:
        >>> spaces = {"lr": {"param_type": "FLOAT", "param_range": (1e-5, 1e-1), "num_samples": 27, "space_type": "LOG"}}
        >>> hyperband = HyperBand(Scope(), spaces, halving_rate=1 / 3, num_min_samples=3)
        >>> hyperband.compute_optimized_initial_training_steps(900)
        [100, 300, 900]
    """

    def __init__(
        self,
        scope: Scope,
        search_spaces: Mapping[str, Any],
        halving_rate: float,
        num_min_samples: int,
        *,
        mode: Literal["min", "max"] = "max",
        name: str | None = None,
        store: str | Path | None = None,
        executor: str | Executor = "inline",
        workers: int | None = None,
    ) -> None:
        if isinstance(halving_rate, bool) or not 0 < halving_rate < 1:
            raise ConfigError(f"HyperBand(halving_rate={halving_rate!r}): expected a share between 0 and 1")
        if isinstance(num_min_samples, bool) or not isinstance(num_min_samples, int) or num_min_samples < 1:
            raise ConfigError(f"HyperBand(num_min_samples={num_min_samples!r}): expected a whole number >= 1")
        if mode not in ("min", "max"):
            raise ConfigError(f"HyperBand(mode={mode!r}): expected 'min' or 'max'")
        self.scope, self.search_spaces, self.mode = scope, SearchSpace(search_spaces), mode
        self.halving_rate, self.num_min_samples = halving_rate, num_min_samples
        self._options: dict[str, Any] = {"store": store, "executor": executor, "workers": workers}
        self._name = name
        self._n = self.search_spaces.grid_size()
        if not self.sizes:
            raise ConfigError(
                f"HyperBand: the spaces hold {self._n} configurations, fewer than num_min_samples={num_min_samples}; "
                "raise num_samples or lower num_min_samples"
            )

    @property
    def sizes(self) -> list[int]:
        """Configurations in each round."""
        return round_sizes(self._n, self.halving_rate, self.num_min_samples)

    def num_generations(self) -> int:
        """Return the number of rounds."""
        return len(self.sizes)

    def compute_optimized_initial_training_steps(self, max_steps: int) -> list[int]:
        """Return the steps of each round, so that every round costs about the same and the last has ``max_steps``."""
        return training_steps(self._n, self.halving_rate, self.num_min_samples, max_steps)

    def main(self, function: Callable[..., float]) -> Callable[..., ADict]:
        """Decorate the function that is searched: calling it runs the search.

        Returns:
            A function of the same further arguments. It returns an ``ADict`` with ``config`` (the best one, with its
            ``__num_halved__`` and ``__metric__``), ``metric``, and ``logs``: the configs of each round, best first.
        """

        @functools.wraps(function)
        def search(*args: Any, **kwargs: Any) -> ADict:
            return self._search(function, args, kwargs)

        return search

    def _search(self, function: Callable[..., float], args: Sequence[Any], kwargs: Mapping[str, Any]) -> ADict:
        base = self._base()
        rounds = _Rounds(function, base, len(self.sizes), lambda config: self._call(function, config, args, kwargs))
        return self._told(self._sweep(rounds, function.__name__).run(), base)

    def _base(self) -> dict[str, Any]:
        config = self.scope.resolve()
        return dict(config.to_dict() if isinstance(config, ADict) else config.model_dump())

    def _sweep(self, rounds: _Rounds, name: str, **options: Any) -> SweepExperiment:
        return SweepExperiment(
            rounds,
            self.search_spaces,
            optimizer=GridOptimizer(),
            scheduler=RoundsScheduler(self.sizes, self.halving_rate),
            metric="metric",
            mode=self.mode,
            name=self._name or name,
            **{**self._options, **options},
        )

    def _call(self, function: Callable[..., float], config: ADict, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        with self.scope.using(config):
            return float(self.scope(function)(*args, **kwargs))

    def _told(self, result: SweepResult, base: Mapping[str, Any]) -> ADict:
        """Return a sweep's result as Ato gives it."""
        logs: list[list[ADict]] = [[] for _ in self.sizes]
        for trial in result.trials:
            if trial.status is Status.FAILED:
                continue
            for report in trial.history:
                config = _config(base, trial.params, report.step - 1)
                config["__metric__"] = report.metrics["metric"]
                logs[report.step - 1].append(config)
        sign = -1 if self.mode == "max" else 1
        for entries in logs:
            entries.sort(key=lambda config: sign * config["__metric__"])
        logs = [entries for entries in logs if entries]
        best = result.best_trial
        config = _config(base, best.params, best.step - 1)
        config["__metric__"] = result.best_score
        return ADict(config=config, metric=result.best_score, logs=logs)


def _config(base: Mapping[str, Any], params: Mapping[str, Any], generation: int) -> ADict:
    """Return the config of one configuration in one round."""
    config = ADict(base).merge(nest(params))
    config["__num_halved__"] = generation
    return config


@final
class _Rounds:
    """The objective of the sweep: round after round until the scheduler lets it go no further."""

    def __init__(
        self, function: Callable[..., float], base: Mapping[str, object], rounds: int, evaluate: Callable[[ADict], float]
    ) -> None:
        self._function, self._base, self._rounds, self._evaluate = function, base, rounds, evaluate
        self.__name__ = function.__name__

    def __sweep_identity__(self) -> Any:
        return {"function": identity_of(self._function), "config": identity_of(self._base), "rounds": self._rounds}

    def __call__(self, params: dict[str, Any], ctx: Context) -> None:
        for generation in range(ctx.load(0), self._rounds):
            metric = self._evaluate(_config(self._base, params, generation))
            ctx.save(generation + 1)
            ctx.report(generation + 1, metric=metric)


# ---------------------------------------------------------------- several processes


@final
class DistributedHyperBand(HyperBand):
    """Halving where each process of a ``torch.distributed`` group runs a share of every round.

    All ranks call the decorated function at the same place and all get the same result. Rank 0 keeps the search (and its
    store); configurations are dealt out by ``broadcast_object_list``, results come back by ``all_gather_object``,
    both from each process's main thread. The process group is the caller's: it is neither opened nor destroyed.

    Args:
        scope: As for :class:`HyperBand`, and so are all that are not named here.
        search_spaces: As there.
        halving_rate: As there.
        num_min_samples: As there.
        rank: Of this process.
        world_size: Number of processes.
        backend: ``"pytorch"``.
        **options: As there (``mode``, ``name``, ``store``).

    Raises:
        ConfigError: Another backend, a rank that is none, or as for :class:`HyperBand`.
        MissingExtra: torch is not installed.
    """

    def __init__(
        self,
        scope: Scope,
        search_spaces: Mapping[str, Any],
        halving_rate: float,
        num_min_samples: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        backend: str = "pytorch",
        **options: Any,
    ) -> None:
        super().__init__(scope, search_spaces, halving_rate, num_min_samples, **options)
        if backend != "pytorch":
            raise ConfigError(f"DistributedHyperBand(backend={backend!r}): expected 'pytorch'")
        if not 0 <= rank < world_size:
            raise ConfigError(f"DistributedHyperBand(rank={rank!r}, world_size={world_size!r}): expected 0 <= rank < world_size")
        try:
            import torch.distributed as group
        except ImportError as error:
            raise MissingExtra("DistributedHyperBand", "torch", "torch") from error
        self.rank, self.world_size, self._group = rank, world_size, group

    def _search(self, function: Callable[..., float], args: Sequence[Any], kwargs: Mapping[str, Any]) -> ADict:
        def evaluate(config: ADict) -> float:
            return self._call(function, config, args, kwargs)

        base = self._base()
        if self.rank > 0:
            return self._follow(evaluate)
        work: queue.SimpleQueue[tuple[ADict, Future[float]] | None] = queue.SimpleQueue()
        outcome: Future[ADict] = Future()

        def dealt(config: ADict) -> float:
            done: Future[float] = Future()
            work.put((config, done))
            return done.result()

        def search() -> None:
            try:
                sweep = self._sweep(
                    _Rounds(function, base, len(self.sizes), dealt), function.__name__, executor="thread", workers=self.world_size
                )
                outcome.set_result(self._told(sweep.run(), base))
            except BaseException as error:  # noqa: BLE001  # handed to the caller and to all ranks
                outcome.set_exception(error)
            work.put(None)

        threading.Thread(target=copy_context().run, args=(search,), name="sweep-hyperband", daemon=True).start()
        self._lead(work, evaluate)
        error = outcome.exception()
        self._broadcast((None if error is not None else outcome.result().to_dict(), repr(error)))
        return outcome.result()

    def _lead(
        self, work: queue.SimpleQueue[tuple[ADict, Future[float]] | None], evaluate: Callable[[ADict], float]
    ) -> None:
        """Deal out what the search asks for, a configuration for each rank at a time, until it is over."""
        while (first := work.get()) is not None:
            batch = [first]
            while len(batch) < self.world_size:
                try:
                    more = work.get(timeout=_TOGETHER)
                except queue.Empty:
                    break
                if more is None:
                    work.put(None)
                    break
                batch.append(more)
            configs = [config.to_dict() for config, _ in batch]
            self._broadcast(configs)
            results = self._share(configs, evaluate)
            for (_, done), (metric, error) in zip(batch, results, strict=False):
                if error is None:
                    done.set_result(metric)
                else:
                    done.set_exception(SweepError(error))
        self._broadcast(None)

    def _follow(self, evaluate: Callable[[ADict], float]) -> ADict:
        """Run what rank 0 deals out, until the search is over."""
        while (configs := self._broadcast(None)) is not None:
            self._share(configs, evaluate)
        result, error = self._broadcast(None)
        if result is None:
            raise SweepError(f"the search failed on rank 0: {error}")
        return ADict(result)

    def _share(self, configs: Sequence[Mapping[str, Any]], evaluate: Callable[[ADict], float]) -> list[Any]:
        """Run this rank's configuration and return the results of all ranks, each with its error or None."""
        mine: tuple[float, str | None] = (0.0, None)
        if self.rank < len(configs):
            try:
                mine = (evaluate(ADict(configs[self.rank])), None)
            except Exception as error:  # noqa: BLE001  # a trial's failure is a result
                mine = (0.0, f"on rank {self.rank}: {type(error).__name__}: {error}")
        results: list[Any] = [None] * self.world_size
        self._group.all_gather_object(results, mine)
        return results

    def _broadcast(self, value: Any) -> Any:
        """Return what rank 0 has."""
        box = [value]
        self._group.broadcast_object_list(box, src=0)
        return box[0]
