"""MAUVE and the Frechet distance: values worked by hand, and what must hold for any sets."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from userlm_synth.reporting.naturalness.frechet import Floats, frechet, reduced
from userlm_synth.reporting.naturalness.mauve import clusters_of, histogram, mauve, quantise

counts = st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any)
pairs = st.integers(2, 12).flatmap(
    lambda k: st.tuples(
        *[st.lists(st.integers(0, 50), min_size=k, max_size=k).filter(any) for _ in "pq"]
    )
)


def areas(p: list[float], q: list[float]) -> float:
    """The area under the paper's curve with plain loops and 20,000 mixtures."""
    steps = 20_000
    points = [(1.0, 0.0)]
    for step in range(1, steps):
        w = step / steps
        kl = [
            sum(
                a * math.log(a / (w * x + (1 - w) * y))
                for a, x, y in zip(of, p, q, strict=True)
                if a > 0
            )
            for of in (q, p)
        ]
        points.append((math.exp(-5 * kl[0]), math.exp(-5 * kl[1])))
    points.append((0.0, 1.0))
    return sum((one[0] - two[0]) * (one[1] + two[1]) / 2 for one, two in pairwise(points))


@given(counts)
def test_equal_histograms_score_100(histogram: list[int]) -> None:
    one = np.array(histogram, dtype=np.float64)
    assert mauve(one, 3 * one) == pytest.approx(100, abs=1e-9)


def test_sets_without_a_common_cluster_score_what_the_integral_says() -> None:
    # x = (1 - w)^5, y = w^5: the area is 5 B(6, 5) = 5 x 5! 4! / 10! = 1/252
    found = mauve(np.array([4.0, 0.0]), np.array([0.0, 9.0]))
    assert found == pytest.approx(100 / 252, abs=0.03)


@pytest.mark.parametrize(("p", "q"), [([0.5, 0.5], [0.9, 0.1]), ([0.2, 0.3, 0.5], [0.6, 0.4, 0.0])])
def test_the_score_is_the_area_under_the_papers_curve(p: list[float], q: list[float]) -> None:
    expected = 100 * areas(p, q)
    assert 5 < expected < 95
    assert mauve(np.array(p), np.array(q)) == pytest.approx(expected, abs=0.2)


@given(pairs)
def test_the_order_of_the_sets_does_not_matter(both: tuple[list[int], list[int]]) -> None:
    one, other = (np.array(side, dtype=np.float64) for side in both)
    assert mauve(one, other) == pytest.approx(mauve(other, one), abs=1e-9)
    assert 0 <= mauve(one, other) <= 100


def test_clusters_are_those_of_well_parted_vectors_and_the_same_again() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(4, 16)
    rows = np.repeat(centres, 25, axis=0) + 0.02 * rng.standard_normal((100, 16))
    found = quantise(rows.astype(np.float32), 4, seed=1)
    groups = found.reshape(4, 25)
    assert (groups == groups[:, :1]).all()
    assert sorted(groups[:, 0]) == [0, 1, 2, 3]
    assert histogram(found, 6).tolist() == [25, 25, 25, 25, 0, 0]
    assert (found == quantise(rows.astype(np.float32), 4, seed=1)).all()


def test_there_is_a_cluster_for_ten_texts_a_side() -> None:
    assert [clusters_of(n) for n in (1, 20, 400, 2000, 100_000)] == [2, 2, 40, 200, 500]


@pytest.mark.filterwarnings("error")
def test_equal_vectors_are_one_cluster() -> None:
    same = np.ones((30, 8), dtype=np.float32)
    assert quantise(same, 5, seed=0).tolist() == [0] * 30
    twice = np.concatenate([same, -same])
    assert len(set(quantise(twice, 5, seed=0).tolist())) == 2


# ---- Frechet -------------------------------------------------------------------------------------


def drawn(n: int, d: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, d))


def test_two_lines_of_numbers_have_the_distance_worked_by_hand() -> None:
    # means 0 and 3, variances 2 and 8: 3^2 + (sqrt 8 - sqrt 2)^2 = 9 + 2
    one = np.array([[-1.0], [1.0]])
    assert frechet(one, 2 * one + 3) == pytest.approx(11)


def test_a_shift_alone_is_its_squared_length() -> None:
    rows = drawn(40, 5, 0)
    assert frechet(rows, rows + np.array([1, 2, 0, 0, 2])) == pytest.approx(9)


def test_it_is_the_formula_with_the_matrix_square_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    one, other = drawn(60, 6, 1) @ drawn(6, 6, 2), drawn(50, 6, 3)
    s1, s2 = np.cov(one.T), np.cov(other.T)
    root = linalg.sqrtm(s1 @ s2).real
    gap = one.mean(0) - other.mean(0)
    expected = gap @ gap + np.trace(s1 + s2 - 2 * root)
    assert frechet(one, other) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, (5, 7), elements=st.floats(-1, 1)),
    arrays(np.float64, (4, 7), elements=st.floats(-1, 1)),
)
def test_it_is_never_negative_and_the_same_both_ways(one: Floats, other: Floats) -> None:
    found = frechet(one, other)
    assert found >= 0
    assert found == pytest.approx(frechet(other, one), abs=1e-6)
    assert frechet(one, one) == pytest.approx(0, abs=1e-6)


def test_fewer_dimensions_keep_the_distances_that_matter() -> None:
    flat = drawn(50, 3, 4) @ drawn(3, 40, 5)
    fewer = reduced(flat.astype(np.float32), 8)
    assert fewer.shape == (50, 8)
    assert frechet(fewer[:25], fewer[25:]) == pytest.approx(frechet(flat[:25], flat[25:]), rel=1e-4)
