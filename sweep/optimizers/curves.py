"""A Gaussian process over (configuration, step): learning curves of many configurations in one model.

Imports numpy and scipy; imported only where a model needs it.

With ``phi(r) = (r^-p - R^-p) / (1 - R^-p)``, which falls from 1 at step 1 to 0 at the last step R, the covariance of
the losses of configurations x, x' at steps r, r' is::

    kx(x, x') T(r, r') + 1 + phi(r) phi(r') + noise
    kx = (1 - w) M32(|x - x'| / l) + w / D sum_j M32(|x_j - x'_j| / a_j)
    T  = sg + sh phi(r) phi(r') + sr M52(log(r / r') / (0.4 log R))

sg is the variance of the final loss, sh that of the amplitude of a power-law decay, sr that of the misfit: the slope
of a curve informs its end. Hyperparameters are the maximum a posteriori under normal priors on their logarithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular  # type: ignore[import-untyped]  # scipy has no types
from scipy.optimize import minimize  # type: ignore[import-untyped]  # as above
from scipy.special import erfcx, ndtr  # type: ignore[import-untyped]  # as above

from sweep.optimizers.encoding import Array

__all__ = ["CurveModel", "Scale", "log_expected_improvement"]

_JITTER = 1e-6
_ROOT3, _ROOT5 = math.sqrt(3.0), math.sqrt(5.0)
_LENGTH = ((0.5, 1.0), (0.03, 30.0))
# (median, sd of the logarithm), (bounds) of sg, sh, sr, p, noise
_OTHERS = (
    ((0.7, 1.0), (1e-3, 1e2)),
    ((0.3, 1.0), (1e-4, 1e2)),
    ((0.02, 1.5), (1e-5, 1e1)),
    ((0.5, 0.4), (0.1, 2.0)),
    ((1e-3, 2.0), (1e-6, 1.0)),
)
_MIX = (0.0, 1.5)  # mean and sd of logit w
_ITERATIONS = 25
_VARIED = 0.3  # standard deviation, on the logarithm


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """Losses as the model sees them: those above the median squeezed by a logarithm, then mean 0 and sd 1.

    Attributes:
        middle: Median of the trials' best losses.
        span: Distance from the best to the median.
        mean: Mean of the squeezed losses.
        sd: Their standard deviation.
    """

    middle: float
    span: float
    mean: float
    sd: float

    @classmethod
    def of(cls, losses: Array, bests: Array) -> Scale:
        """Fit to the losses of all rows and the best loss of each trial."""
        middle = float(np.median(bests))
        span = middle - float(bests.min())
        raw = cls(middle, span, 0.0, 1.0).apply(losses)
        sd = float(raw.std())
        return cls(middle, span, float(raw.mean()), sd if sd > 0 else 1.0)

    def apply(self, losses: Array) -> Array:
        """Return standardised losses."""
        if self.span > 0:
            above = np.maximum(losses - self.middle, 0.0) / self.span
            losses = np.minimum(losses, self.middle) + self.span * np.log1p(above)
        return (losses - self.mean) / self.sd

    def undo(self, z: Array) -> Array:
        """Return losses; the inverse of `apply`."""
        losses = z * self.sd + self.mean
        if self.span > 0:
            above = np.clip((losses - self.middle) / self.span, 0.0, 200.0)
            losses = np.minimum(losses, self.middle) + self.span * np.expm1(above)
        return losses


@final
class CurveModel:
    """The Gaussian process with its hyperparameters, conditioned on rows of data.

    Args:
        width: D, the number of features.
        last: R, the highest step.
        theta: Hyperparameters (2 D + 6): logarithms of l, a, sg, sh, sr, p, noise, and logit w; None: the priors'.
    """

    def __init__(self, width: int, last: float, theta: Array | None = None) -> None:
        self._width, self._last = width, max(last, 1.0)
        pairs = [_LENGTH] * (2 * width) + list(_OTHERS)
        self._prior_mean = np.array([math.log(median) for (median, _), _ in pairs] + [_MIX[0]])
        self._prior_sd = np.array([sd for (_, sd), _ in pairs] + [_MIX[1]])
        self._bounds = [(math.log(low), math.log(high)) for _, (low, high) in pairs] + [(-6.0, 6.0)]
        self.theta = self._prior_mean.copy() if theta is None else theta

    # fitting

    def fit(self, x: Array, steps: Array, z: Array) -> None:
        """Move the hyperparameters to fit features (n, D), steps (n,) and standardised losses (n,)."""
        data = _Data.of(x, steps, z)
        found = minimize(
            self._loss,
            self.theta,
            args=(data,),
            jac=True,
            method="L-BFGS-B",
            bounds=self._bounds,
            options={"maxiter": _ITERATIONS},
        )
        if np.all(np.isfinite(found.x)):
            self.theta = found.x

    def _loss(self, theta: Array, data: _Data) -> tuple[float, Array]:
        """Return the negative log posterior and its gradient."""
        d = self._width
        lengths, spreads = np.exp(-2.0 * theta[:d]), np.exp(-theta[d : 2 * d])
        noise, w = math.exp(theta[2 * d + 4]), _sigmoid(theta[2 * d + 5])
        t = np.sqrt(np.tensordot(lengths, data.squares, 1))
        decay = np.exp(-_ROOT3 * t)
        radial = (1.0 + _ROOT3 * t) * decay
        ta = data.gaps * spreads[:, None, None]
        decay_a = np.exp(-_ROOT3 * ta)
        additive = ((1.0 + _ROOT3 * ta) * decay_a).sum(0) / max(d, 1)
        kx = (1.0 - w) * radial + w * additive
        time = _Time(self._last, theta[2 * d : 2 * d + 4], data.levels, data.levels)
        pick = np.ix_(data.places, data.places)
        k = kx * time.t[pick] + time.shared[pick]
        k[np.diag_indices_from(k)] += noise + _JITTER
        try:
            factor = cholesky(k, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e25, np.zeros_like(theta)
        alpha = cho_solve((factor, True), data.z, check_finite=False)
        inverse = cho_solve((factor, True), np.eye(len(data.z)), check_finite=False)
        inner = inverse - np.outer(alpha, alpha)
        weighted = inner * time.t[pick]
        gradient = np.empty_like(theta)
        gradient[:d] = 0.5 * (1.0 - w) * lengths * np.tensordot(data.squares, 3.0 * weighted * decay, 2)
        gradient[d : 2 * d] = 1.5 * w / max(d, 1) * (weighted * ta**2 * decay_a).sum((1, 2))
        gradient[2 * d : 2 * d + 4] = time.gradient(data.sums(inner * kx), data.sums(inner))
        gradient[2 * d + 4] = 0.5 * noise * np.trace(inner)
        gradient[2 * d + 5] = 0.5 * w * (1.0 - w) * float((weighted * (additive - radial)).sum())
        off = (theta - self._prior_mean) / self._prior_sd
        value = 0.5 * data.z @ alpha + np.log(np.diag(factor)).sum() + 0.5 * off @ off
        return float(value), gradient + off / self._prior_sd

    def varied(self, rng: np.random.Generator) -> CurveModel:
        """Return a model without data whose lengths and mixture are drawn around these.

        One set of hyperparameters is surer of itself than the data allow; sets that differ see other promising places.
        """
        spread = _VARIED * np.minimum(self._prior_sd, 1.0)
        spread[2 * self._width : -1] = 0.0
        low, high = np.array(self._bounds).T
        theta = np.clip(self.theta + spread * rng.standard_normal(spread.size), low, high)
        return CurveModel(self._width, self._last, theta)

    # prediction

    def condition(self, x: Array, steps: Array, z: Array) -> None:
        """Take in the data to predict from: features (n, D), steps (n,), standardised losses (n,)."""
        # a configuration has several rows, one for each of its steps
        self._x, self._which = np.unique(x, axis=0, return_inverse=True)
        self._steps = steps
        k = self._similarity(self._x)[np.ix_(self._which, self._which)]
        levels, places = np.unique(steps, return_inverse=True)
        time, pick = self._time(levels, levels), np.ix_(places, places)
        k = k * time.t[pick] + time.shared[pick]
        k[np.diag_indices_from(k)] += math.exp(self.theta[2 * self._width + 4]) + _JITTER
        self._factor = cholesky(k, lower=True, check_finite=False)
        self._alpha = cho_solve((self._factor, True), z, check_finite=False)

    def predict(self, x: Array, step: float) -> tuple[Array, Array]:
        """Return mean and standard deviation (n,) of the noiseless standardised loss of features (n, D) at a step."""
        at = np.array([step])
        time = self._time(self._steps, at)
        cross = self._similarity(x).T.take(self._which, axis=0)  # (rows of data, n)
        cross *= time.t
        cross += time.shared
        half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        own = self._time(at, at)
        variance = float(own.t[0, 0] + own.shared[0, 0]) - np.einsum("ij,ij->j", half, half)
        return self._alpha @ cross, np.sqrt(np.maximum(variance, 1e-12))

    def _time(self, levels: Array, others: Array) -> _Time:
        return _Time(self._last, self.theta[2 * self._width : 2 * self._width + 4], levels, others)

    def _similarity(self, x: Array) -> Array:
        """Return kx between features (n, D) and the configurations of the data."""
        d, other = self._width, self._x
        lengths, rates = np.exp(-self.theta[:d]), _ROOT3 * np.exp(-self.theta[d : 2 * d])
        scaled, theirs = x * lengths, other * lengths
        squares = (scaled**2).sum(1)[:, None] + (theirs**2).sum(1)[None, :] - 2.0 * scaled @ theirs.T
        w = _sigmoid(self.theta[2 * d + 5])
        kx = _matern(_ROOT3 * np.sqrt(np.maximum(squares, 0.0)))
        kx *= 1.0 - w
        for j in range(d):
            part = _matern(np.abs(x[:, j, None] * rates[j] - other[None, :, j] * rates[j]))
            part *= w / d
            kx += part
        return kx


def _matern(t: Array) -> Array:
    """Return ``(1 + t) exp(-t)``; ``t`` is used up."""
    decay = np.exp(-t)
    t += 1.0
    t *= decay
    return t


@final
@dataclass(frozen=True, slots=True)
class _Data:
    """What a fit looks at again and again."""

    z: Array
    gaps: Array  # (D, n, n) distances
    squares: Array  # (D, n, n) their squares
    levels: Array  # (L,) the steps there are
    places: NDArray[np.intp]  # (n,) which of them a row has

    @classmethod
    def of(cls, x: Array, steps: Array, z: Array) -> _Data:
        columns = x.T
        gaps = np.abs(columns[:, :, None] - columns[:, None, :])
        levels, places = np.unique(steps, return_inverse=True)
        return cls(z, gaps, gaps**2, levels, places)

    def sums(self, matrix: Array) -> Array:
        """Return (L, L): the entries of an (n, n) matrix summed level by level."""
        one_hot = np.eye(len(self.levels))[self.places]
        summed: Array = one_hot.T @ matrix @ one_hot
        return summed


class _Time:
    """The part of the covariance that depends on steps, (L, M), and its gradient."""

    def __init__(self, last: float, theta: Array, levels: Array, others: Array) -> None:
        self._sg, self._sh, self._sr, self._p = np.exp(theta)
        self._phi, self._slope = _decay(levels, last, self._p)
        self._phi2, self._slope2 = _decay(others, last, self._p)
        self.product = np.outer(self._phi, self._phi2)
        u = np.abs(np.log(levels)[:, None] - np.log(others)[None, :]) / max(0.4 * math.log(last), 1e-9)
        self._misfit = (1.0 + _ROOT5 * u + 5.0 / 3.0 * u**2) * np.exp(-_ROOT5 * u)
        self.t: Array = self._sg + self._sh * self.product + self._sr * self._misfit
        self.shared: Array = 1.0 + self.product

    def gradient(self, inner_kx: Array, inner: Array) -> Array:
        """Return half the trace with respect to the logarithms of sg, sh, sr, p; arguments summed level by level."""
        slope = np.outer(self._slope, self._phi2) + np.outer(self._phi, self._slope2)
        return 0.5 * np.array(
            [
                self._sg * inner_kx.sum(),
                self._sh * (inner_kx * self.product).sum(),
                self._sr * (inner_kx * self._misfit).sum(),
                ((self._sh * inner_kx + inner) * slope).sum(),
            ]
        )


def _decay(steps: Array, last: float, p: float) -> tuple[Array, Array]:
    """Return phi and its derivative with respect to log p; both 0 where there is one step only."""
    if last <= 1.0:
        return np.zeros_like(steps), np.zeros_like(steps)
    logs, end = np.log(np.minimum(steps, last)), math.log(last)
    top, bottom = np.exp(-p * logs) - math.exp(-p * end), 1.0 - math.exp(-p * end)
    top_slope = end * math.exp(-p * end) - logs * np.exp(-p * logs)
    bottom_slope = end * math.exp(-p * end)
    return top / bottom, p * (top_slope * bottom - top * bottom_slope) / bottom**2


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def log_expected_improvement(mean: Array, sd: Array, target: float) -> Array:
    """Return the logarithm of the expected improvement below ``target``, exact far into the tail.

    Source: Ament et al., Unexpected Improvements to Expected Improvement (arXiv 2310.20708), equation 9.
    """
    u = (target - mean) / sd
    log_density = -0.5 * u**2 - 0.5 * math.log(2.0 * math.pi)
    near = np.maximum(u, -1.0)
    direct = np.log(near * ndtr(near) + np.exp(-0.5 * near**2) / math.sqrt(2.0 * math.pi))
    far = np.clip(u, -1e4, -1.0)
    tail = np.log1p(far * math.sqrt(math.pi / 2.0) * erfcx(-far / math.sqrt(2.0)))
    tail = np.where(u < -1e3, -2.0 * np.log(np.maximum(-u, 1.0)), tail)
    result: Array = np.log(sd) + np.where(u > -1.0, direct, log_density + tail)
    return result
