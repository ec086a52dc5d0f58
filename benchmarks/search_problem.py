"""Learning curves of LCBench as YAHPO Gym's surrogate gives them, in a wider, mirrored box.

The data: folder "lcbench" of YAHPO Gym's data v1.0.2 (https://github.com/slds-lmu/yahpo_data, Apache-2.0), of which
``config_space.json``, ``encoding.json`` and ``model.onnx`` are read. Needs numpy and onnxruntime.

Two traps. Epoch 1 is the untrained network, so a trial's unit 1 is epoch 2. The surrogate's optimum sits in a corner
of its box, so the box handed out is wider and mirrored at the edges, differently for each fold.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sweep.space import Integer, LogInteger, LogUniform, SearchSpace, Uniform

Array: TypeAlias = NDArray[np.float64]

UNITS = 51  # epochs 2 to 52
BEST = Path(__file__).with_name("search_best.json")  # the lowest loss known of each data set
_INPUTS = ("epoch", "batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout")
_OUTPUTS = 6
_RANDOM = 1000  # configurations by which a problem's median and mean cost are taken


class Curves(NamedTuple):
    """Loss (100 less validation accuracy, in percent, less 100) and cumulative seconds after each unit, (n, 51)."""

    losses: Array
    seconds: Array


class Problem:
    """One data set of LCBench in one box.

    Args:
        data: Folder of the surrogate.
        instance: OpenML task id.
        fold: Seed of the box; None: the surrogate's own.

    Attributes:
        space: What to search.
        median: Median of the best losses of random configurations.
        best: The lowest loss known: what search from many starts in the surrogate's own box found.
        mean_seconds: Mean time of a full training.
    """

    def __init__(self, data: Path, instance: str, fold: int | None) -> None:
        import onnxruntime  # type: ignore[import-untyped]  # it has no types

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # hundreds of sessions, one after the other
        self._model = onnxruntime.InferenceSession(str(data / "model.onnx"), options, ["CPUExecutionProvider"])
        self._code = json.loads((data / "encoding.json").read_text())["OpenML_task_id"][instance]
        listed = json.loads((data / "config_space.json").read_text())["hyperparameters"]
        known = {entry["name"]: entry for entry in listed}
        self._parts = {name: _distribution(known[name]) for name in _INPUTS if name != "epoch"}
        self.space = SearchSpace(self._parts)
        rng = np.random.default_rng([fold or 0, zlib.crc32(f"lcbench/{instance}".encode())])
        margins = rng.uniform(0.10, 0.35, (len(listed), 2)) if fold is not None else np.zeros((len(listed), 2))
        names = [entry["name"] for entry in listed if entry["name"] in self._parts]
        self._fold = dict(zip(names, margins, strict=False))
        random = [self.space.sample(np.random.default_rng([fold or 0, 7, i])) for i in range(_RANDOM)]
        curves = self.curves(random)
        self.mean_seconds = float(curves.seconds[:, -1].mean())
        self.median = float(np.median(curves.losses.min(1)))
        self.best = json.loads(BEST.read_text()).get(instance, np.nan) if BEST.exists() else np.nan

    def curve(self, params: Mapping[str, Any]) -> tuple[Array, Array]:
        """Return losses and cumulative seconds (51,), the total within a factor 3 of the mean."""
        losses, seconds = (rows[0] for rows in self.curves([params]))
        total = min(max(seconds[-1], self.mean_seconds / 3), self.mean_seconds * 3)
        return losses, seconds * (total / seconds[-1])

    def regret(self, loss: float) -> float:
        """Return 0 for the best loss known, 1 for the median of random configurations."""
        return (loss - self.best) / (self.median - self.best)

    def curves(self, params: Sequence[Mapping[str, Any]]) -> Curves:
        """Return the curves of configurations, with the seconds that the surrogate guesses."""
        epochs = np.arange(1, UNITS + 2, dtype=np.float32)
        rows = [[0.0, *(self._unfolded(name, each[name]) for name in _INPUTS[1:])] for each in params]
        numbers = np.repeat(np.array(rows, dtype=np.float32), len(epochs), axis=0)
        numbers[:, 0] = np.tile(epochs, len(params))
        codes = np.full((len(numbers), 1), self._code, dtype=np.int32)
        out = self._model.run(None, {"x_cat": codes, "x_cont": numbers})[0]
        out = out.reshape(len(params), len(epochs), _OUTPUTS).astype(float)
        clock = np.maximum(out[:, :, 0], 0.0)
        total = np.maximum(clock.max(1) * 51 / 52, 1e-3)
        # the surrogate's clock is a smooth guess: make it increase, no epoch cheaper than a fifth of the mean
        steps = np.maximum(np.diff(clock, axis=1), 0.2 * total[:, None] / UNITS)
        seconds = np.cumsum(steps * (total / steps.sum(1))[:, None], axis=1)
        return Curves(-out[:, 1:, 1], seconds)

    def climbed(self) -> float:
        """Return the regret of what climbing from the best of random configurations finds in this box."""
        units = np.random.default_rng(0).random((_RANDOM, len(self._parts)))
        return self.regret(self._climb(units, (0.1, 0.05, 0.02, 0.01), 20, 20))

    def search(self) -> float:
        """Return the lowest loss that climbing from many starts finds, corners of the box among them."""
        rng = np.random.default_rng(1)
        units = np.concatenate(
            [rng.random((1500, len(self._parts))), rng.choice([0.0, 0.5, 1.0], (500, len(self._parts)))]
        )
        return self._climb(units, (0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.02, 0.02, 0.01, 0.01), 40, 15)

    def _climb(self, units: Array, scales: Sequence[float], best: int, near: int) -> float:
        rng = np.random.default_rng(1)
        losses = self._best_losses(units)
        for scale in scales:
            top = np.repeat(units[np.argsort(losses)[:best]], near, 0)
            more = np.clip(top + scale * rng.standard_normal(top.shape) * (rng.random(top.shape) < 0.5), 0, 1)
            units, losses = np.concatenate([units, more]), np.concatenate([losses, self._best_losses(more)])
        return float(losses.min())

    def _best_losses(self, units: Array) -> Array:
        bests: Array = self.curves([self.space.from_unit(unit.tolist()) for unit in units]).losses.min(1)
        return bests

    def _unfolded(self, name: str, value: Any) -> Any:
        low, high = self._fold[name]
        place = abs(self._parts[name].to_unit(value) * (1 + low + high) - low)
        return self._parts[name].from_unit(2 - place if place > 1 else place)


def instances(data: Path) -> list[str]:
    """Return the data sets there are."""
    names = json.loads((data / "encoding.json").read_text())["OpenML_task_id"]
    return sorted((name for name in names if name.isdigit()), key=int)


def _distribution(entry: dict[str, Any]) -> Any:
    low, high, log = entry["lower"], entry["upper"], entry["log"]
    if entry["type"] == "uniform_int":
        return LogInteger(low, high) if log else Integer(low, high)
    return LogUniform(low, high) if log else Uniform(low, high)
