"""Small tools for arrays: pairs of numbers as one, distinct values, look-ups, work on threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from userlm_synth.conversations.openings import Array

HALF = np.uint64(32)

In = TypeVar("In")
Out = TypeVar("Out")


def in_order(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """`map` on several threads, a few items ahead: numpy lets go of the interpreter as it works."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Out]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def distinct(values: Array) -> Array:
    """Sorted, each once (numpy's `unique` hashes, which is slower here)."""
    values = np.sort(values)
    first = np.ones(len(values), bool)
    first[1:] = values[1:] != values[:-1]
    return values[first]


def joined(high: Array, low: Array) -> Array:
    """Two numbers below 2**32 as one uint64."""
    key: Array = high.astype(np.uint64) << HALF | low.astype(np.uint64)
    return key


def upper(key: Array) -> Array:
    """The first of two joined numbers, as int64."""
    high: Array = (key >> HALF).astype(np.int64)
    return high


def lower(key: Array) -> Array:
    """The second of two joined numbers, as uint64."""
    low: Array = key & np.uint64(2**32 - 1)
    return low


def places_in(table: Array, values: Array) -> Array:
    """The place of each value in a sorted table without repeats, or -1."""
    if not len(table):
        return np.full(len(values), -1, np.int64)
    place = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return np.where(table[place] == values, place, -1)


def count_pairs(one: Array, two: Array) -> tuple[Array, Array]:
    """Distinct pairs of numbers below 2**32 as one number each, and how often each occurs."""
    return np.unique(joined(one, two), return_counts=True)


def most_frequent(rows: Array, parts: Array) -> tuple[Array, Array]:
    """(distinct rows, the part that occurs most often in each; the smallest of equals)."""
    if not len(rows):
        return rows, parts
    key, times = count_pairs(rows, parts)
    row, part = upper(key), lower(key).astype(np.int64)
    order = np.lexsort((part, -times, row))
    row, part = row[order], part[order]
    first = np.concatenate([[True], row[1:] != row[:-1]])
    return row[first], part[first]


def first_linked(count: int, one: Array, two: Array) -> Array:
    """For each of `count` items the first that it is linked with, however indirectly: int64.

    `one[i]` is linked with `two[i]`; an item without a link is its own first.
    """
    root = list(range(count))

    def top(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for a, b in zip(one.tolist(), two.tolist(), strict=True):
        a, b = top(a), top(b)
        root[max(a, b)] = min(a, b)
    return np.array([top(item) for item in range(count)], np.int64)
