"""MAUVE: how near two sets of texts lie, from their embeddings (Pillutla et al. 2021, arXiv
2102.01454). 100 says that nothing tells them apart, 0 that they have nothing in common.

Written from the paper: both sets together are cut into clusters by k-means, each set becomes a
histogram over them, and the score is the area under the curve of the two Kullback-Leibler
divergences to their mixtures. The paper's embeddings are those of a large language model; a report
uses its own vectors, so that its figures compare with each other and not with published ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SCALING = 5.0  # c of the paper: how fast a divergence takes from the score
MIXTURES = 25  # points of the curve
EXPLAINED = 0.9  # share of the variance that the principal components keep, as in the paper
STARTS, ROUNDS = 2, 100  # of k-means
LARGEST = 500  # clusters; the paper's is 500 for 5,000 texts a side


def mauve(one: Floats, other: Floats) -> float:
    """100 x the area under the divergence curve of two histograms of counts or shares, [k].

    The curve's points are (exp(-c KL(q|r)), exp(-c KL(p|r))) for mixtures r = w p + (1 - w) q, with
    (0, 1) and (1, 0) at its ends (the paper's equations 1 to 3).
    """
    p, q = one / one.sum(), other / other.sum()
    weights = np.linspace(1e-6, 1 - 1e-6, MIXTURES)[:, None]
    mixed = weights * p + (1 - weights) * q
    # at the ends one histogram alone: it explains all of itself, and nothing of the other
    x = np.exp(-SCALING * np.array([0, *_divergences(q, mixed), np.inf]))
    y = np.exp(-SCALING * np.array([np.inf, *_divergences(p, mixed), 0]))
    # along the curve x falls and y rises, so it is in order for trapezoids
    area = ((x[:-1] - x[1:]) * (y[:-1] + y[1:]) / 2).sum()
    return float(np.clip(100 * area, 0, 100))


def _divergences(of: Floats, mixed: Floats) -> Floats:
    """KL(of | row) in nats for each row of `mixed` [rows, k]; 0 log 0 is 0."""
    there = of > 0
    ratio = of[there] / mixed[:, there]
    return np.asarray(np.maximum((of[there] * np.log(ratio)).sum(axis=1), 0))


def clusters_of(n: int) -> int:
    """How many clusters for n texts a side: n / 10, as in the paper, at least 2."""
    return int(min(max(n // 10, 2), LARGEST))


def quantise(vectors: npt.NDArray[np.float32], clusters: int, seed: int) -> npt.NDArray[np.int64]:
    """The cluster of each row of `vectors` [n, d]: k-means on the first principal components.

    Rows have unit length before and after, as in the paper. Fewer clusters where there are fewer
    different rows.
    """
    from sklearn.cluster import KMeans

    rows = _components(vectors.astype(np.float64))
    different = len(np.unique(rows.round(9), axis=0))
    clusters = min(clusters, different)
    if clusters < 2:
        return np.zeros(len(rows), dtype=np.int64)
    model = KMeans(clusters, n_init=STARTS, max_iter=ROUNDS, random_state=seed, algorithm="lloyd")
    found: npt.NDArray[np.int64] = model.fit_predict(rows).astype(np.int64)
    return found


def _components(rows: Floats) -> Floats:
    """The principal components that hold `EXPLAINED` of the variance, as rows of unit length."""
    centred = rows - rows.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]
    if not values.sum() > 0:
        return rows
    kept = int(np.searchsorted(np.cumsum(values) / values.sum(), EXPLAINED)) + 1
    # signs of eigenvectors are the machine's choice; distances do not depend on them
    return unit(centred @ axes[:, :kept])


def unit(rows: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, length, out=np.zeros_like(rows), where=length > 0))


def histogram(clusters: npt.NDArray[np.int64], k: int) -> Floats:
    """How many rows each of k clusters has."""
    return np.bincount(clusters, minlength=k).astype(np.float64)
