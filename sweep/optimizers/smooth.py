"""A plain Gaussian process: linear plus Matern-3/2 with a length for each feature.

Imports numpy and scipy; imported only where a model needs it.
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular  # type: ignore[import-untyped]  # scipy has no types
from scipy.optimize import minimize  # type: ignore[import-untyped]  # as above

from sweep.optimizers.encoding import Array

__all__ = ["SmoothModel"]

_ROOT3 = math.sqrt(3.0)
_JITTER = 1e-6
_LENGTH = (0.5, 1.0, 0.03, 30.0)  # median, sd of the logarithm, bounds
_OTHERS = ((0.3, 1.5, 1e-4, 1e2), (0.7, 1.0, 1e-3, 1e2), (1e-2, 2.0, 1e-6, 1.0))  # linear, Matern, noise
_ITERATIONS = 30


@final
class SmoothModel:
    """Fitted to features (n, D) in the unit cube and values (n,), which it standardises for itself.

    Hyperparameters are the maximum a posteriori under normal priors on their logarithms.

    Args:
        x: Features.
        y: Values, finite.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self._x = x - 0.5
        self._mean = float(y.mean())
        sd = float(y.std())
        self._sd = sd if sd > 0 else 1.0
        self._z = (y - self._mean) / self._sd
        rows = [_LENGTH] * x.shape[1] + list(_OTHERS)
        self._prior_mean = np.log([row[0] for row in rows])
        self._prior_sd = np.array([row[1] for row in rows])
        self._squares = (self._x.T[:, :, None] - self._x.T[:, None, :]) ** 2
        self._dots = self._x @ self._x.T
        found = minimize(
            self._loss,
            self._prior_mean,
            jac=True,
            method="L-BFGS-B",
            bounds=[(math.log(row[2]), math.log(row[3])) for row in rows],
            options={"maxiter": _ITERATIONS},
        )
        self._theta = found.x if np.all(np.isfinite(found.x)) else self._prior_mean
        k = self._covariance(self._x)
        k[np.diag_indices_from(k)] += math.exp(self._theta[-1]) + _JITTER
        self._factor = cholesky(k, lower=True, check_finite=False)
        self._alpha = cho_solve((self._factor, True), self._z, check_finite=False)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation (n,) of the noiseless value at features (n, D)."""
        x = x - 0.5
        cross = self._covariance(x)
        half = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        own = math.exp(self._theta[-3]) * (x**2).sum(1) + math.exp(self._theta[-2])
        variance = np.maximum(own - np.einsum("ij,ij->j", half, half), 1e-12)
        return cross @ self._alpha * self._sd + self._mean, np.sqrt(variance) * self._sd

    def _covariance(self, x: Array) -> Array:
        """Return the covariance (n, m) of values at ``x`` with those fitted to."""
        lengths = np.exp(-self._theta[:-3])
        a, b = x * lengths, self._x * lengths
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * a @ b.T
        t = _ROOT3 * np.sqrt(np.maximum(squares, 0.0))
        covariance: Array = math.exp(self._theta[-3]) * x @ self._x.T
        covariance += math.exp(self._theta[-2]) * (1.0 + t) * np.exp(-t)
        return covariance

    def _loss(self, theta: Array) -> tuple[float, Array]:
        """Return the negative log posterior and its gradient."""
        linear, smooth, noise = np.exp(theta[-3:])
        inverse_squares = np.exp(-2.0 * theta[:-3])
        t = np.sqrt(np.tensordot(inverse_squares, self._squares, 1))
        decay = np.exp(-_ROOT3 * t)
        matern = (1.0 + _ROOT3 * t) * decay
        k = linear * self._dots + smooth * matern
        k[np.diag_indices_from(k)] += noise + _JITTER
        try:
            factor = cholesky(k, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e25, np.zeros_like(theta)
        alpha = cho_solve((factor, True), self._z, check_finite=False)
        inner = cho_solve((factor, True), np.eye(len(alpha)), check_finite=False) - np.outer(alpha, alpha)
        gradient = np.empty_like(theta)
        gradient[:-3] = 1.5 * smooth * inverse_squares * np.tensordot(self._squares, inner * decay, 2)
        gradient[-3:] = 0.5 * np.array(
            [linear * (inner * self._dots).sum(), smooth * (inner * matern).sum(), noise * np.trace(inner)]
        )
        off = (theta - self._prior_mean) / self._prior_sd
        value = 0.5 * self._z @ alpha + np.log(np.diag(factor)).sum() + 0.5 * off @ off
        return float(value), gradient + off / self._prior_sd
