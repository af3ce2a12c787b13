"""Topics: clusters of the set's dialogues and people's together, with the words that mark them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userlm_synth.metrics import is_stopword, words
from userlm_synth.records import Record
from userlm_synth.reporting.plan import Plan, user_text

MOST = 12  # clusters
WORDS = 8  # of each cluster
READ = 4000  # characters of a dialogue in which its words are looked for
TEXT = 200  # characters of an example
FEWEST = 10  # dialogues with a vector, to look for topics at all
LIFT = 1.5  # a word that marks a topic is so much more frequent in it than in all dialogues
LEAST = 3  # letters of a word that marks a topic, in scripts with spaces

Labels = NDArray[np.int64]


def topics(plan: Plan) -> Record:
    """Clusters by k-means on the vectors of the set's sample and of people's, together::

        {"k": int, "n": dialogues of the set, "people_n": int, "vectors": what made them,
         "without": % of the set without a vector (no word in it),
         "clusters": [{"words": [str] (<= 8), "share": % of the set,
                       "people_share": % of people | null,
                       "example": {"id", "text"} | null}]}   # by share, largest first

    or `{"kind": "none", "why": str}`. k = sqrt(n / 2) rounded, 2 to 12; the example is the
    dialogue of the set that is nearest to the middle of its cluster.
    """
    if plan.vectors is None:
        return _none("there are no vectors to find topics by")
    both = np.concatenate([plan.vectors.made, plan.vectors.people])
    there = np.flatnonzero(np.abs(both).sum(1) > 0)
    mine = there < plan.n
    if mine.sum() < FEWEST:
        return _none(f"needs {FEWEST} dialogues with words")
    different = len(np.unique(np.round(both[there], 5), axis=0))
    k = min(MOST, max(2, round((plan.n / 2) ** 0.5)), different)
    labels, distance = _clustered(both[there], k, plan.seed)
    records = [*plan.made, *plan.people]
    marks = _marks([user_text(records[row])[:READ] for row in there], labels, k)
    found = [
        {
            "words": marks[one],
            "share": 100 * float((labels[mine] == one).mean()),
            "people_share": 100 * float((labels[~mine] == one).mean()) if (~mine).any() else None,
            "example": _example(plan, there, distance, mine & (labels == one)),
        }
        for one in range(k)
    ]
    return {
        "k": k,
        "n": plan.n,
        "people_n": len(plan.people),
        "vectors": plan.vectors.name,
        "without": 100 * (plan.n - int(mine.sum())) / plan.n,
        "clusters": sorted(found, key=lambda one: (-one["share"], one["words"])),
    }


def _none(why: str) -> Record:
    return {"kind": "none", "why": why}


def _clustered(vectors: NDArray[Any], k: int, seed: int) -> tuple[Labels, NDArray[Any]]:
    """Each vector's cluster, and how far it is from the middle of that (Lloyd 1982)."""
    from sklearn.cluster import KMeans

    model = KMeans(k, n_init=3, random_state=seed % 2**32, algorithm="lloyd")
    far = model.fit_transform(vectors.astype(np.float64))
    return far.argmin(1).astype(np.int64), far.min(1)


def _example(
    plan: Plan, there: Labels, distance: NDArray[Any], chosen: NDArray[np.bool_]
) -> Record | None:
    if not chosen.any():
        return None
    places = np.flatnonzero(chosen)
    row = int(there[places[distance[places].argmin()]])
    record = plan.made[row]
    return {"id": str(record.get("id", row)), "text": user_text(record)[:TEXT]}


def _marks(texts: Sequence[str], labels: Labels, k: int) -> list[list[str]]:
    """The words that mark each cluster, by class-based TF-IDF (Grootendorst 2022).

    tf x log(1 + A / f): tf is the share of a cluster's words that a word is, f its times in all
    clusters, A the mean number of words of a cluster. A word counts once a dialogue, so that no
    single one names a topic.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(k)]
    for text, label in zip(texts, labels.tolist(), strict=True):
        counts[label].update({word for word in words(text) if _says_something(word)})
    everywhere: Counter[str] = Counter()
    for one in counts:
        everywhere.update(one)
    total = sum(everywhere.values())
    return [_heaviest(one, everywhere, total, k) for one in counts]


def _heaviest(one: Counter[str], everywhere: Counter[str], total: int, k: int) -> list[str]:
    own = sum(one.values())

    def order(word: str) -> tuple[bool, float, str]:
        share, times = one[word] / own, everywhere[word]
        return share * total < LIFT * times, -share * float(np.log1p(total / k / times)), word

    return sorted(one, key=order)[:WORDS]


def _says_something(word: str) -> bool:
    if word.isdigit() or is_stopword(word):
        return False
    return len(word) >= LEAST or not word.isascii()
