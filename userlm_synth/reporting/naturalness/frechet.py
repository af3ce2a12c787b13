"""Frechet distance between two sets of vectors, each taken as a Gaussian (Heusel et al. 2017,
arXiv 1706.08500, the formula of FID): 0 says equal means and covariances.

    d2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

The trace of (S1 S2)^(1/2) is the sum of the singular values of S1^(1/2) S2^(1/2), so that nothing
is ever complex, whatever the rank. It falls with n, so compare it at equal n only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

DIMENSIONS = 128  # principal components of all vectors together, at most: more cost d^3 each time


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The mean [d], the covariance [d, d] (divided by n - 1) and its square root of some rows."""

    mean: Floats
    covariance: Floats
    root: Floats

    @classmethod
    def of(cls, rows: Floats) -> Gaussian:
        """Fitted to `rows` [n, d], n at least 2."""
        mean = rows.mean(axis=0)
        centred = rows - mean
        covariance = centred.T @ centred / (len(rows) - 1)
        values, axes = np.linalg.eigh(covariance)
        root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
        return cls(mean, covariance, root)


def distance(one: Gaussian, other: Gaussian) -> float:
    """The squared Frechet distance of two Gaussians; never below 0."""
    between = np.square(one.mean - other.mean).sum()
    # singular values through the symmetric S1^(1/2) S2 S1^(1/2): as exact here, and quicker
    inner = one.root @ other.covariance @ one.root
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(inner), 0)).sum()
    whole = np.trace(one.covariance) + np.trace(other.covariance)
    return float(max(between + whole - 2 * shared, 0.0))


def frechet(one: Floats, other: Floats) -> float:
    """The squared Frechet distance of two sets of rows [n, d], at least two rows each."""
    return distance(Gaussian.of(one), Gaussian.of(other))


def reduced(rows: npt.NDArray[np.float32], dimensions: int = DIMENSIONS) -> Floats:
    """Rows turned to their first principal components, where they have more dimensions."""
    wide = rows.astype(np.float64)
    if wide.shape[1] <= dimensions:
        return wide
    centred = wide - wide.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ axes[:, ::-1][:, :dimensions])
