"""Near-duplicates among short texts: an inverted index, exact for Jaccard of word sets.

If J(x, y) = |x & y| / |x | y| >= t then y has at least t |x| words of x. So among any
|x| - ceil(t |x|) + 1 words of x one is in y: only texts that share one of the rarest so many words
are compared (prefix filtering; Chaudhuri et al., ICDE 2006).
"""

from __future__ import annotations

import math
from collections import defaultdict

from userlm_synth.intents.replies import words

THRESHOLD = 0.7
_COMMON = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "have", "how", "in", "into",
    "is", "it", "of", "on", "or", "so", "some", "than", "that", "the", "their", "them", "this",
    "to", "too", "up", "what", "when", "which", "who", "with",
})  # fmt: skip


def content_words(text: str) -> frozenset[str]:
    """The words that carry meaning, or all where none does."""
    found = frozenset(words(text))
    return found - _COMMON or found


class NearIndex:
    """Texts kept so far; `add` takes one in unless it is like one of them."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        self.texts: list[frozenset[str]] = []
        self.under: defaultdict[str, list[int]] = defaultdict(list)  # word -> places in `texts`

    def add(self, text: str) -> bool:
        """False for a text whose words are those of one kept before, up to the threshold."""
        found = content_words(text)
        # The tolerance is for 0.7 * 10, which is a little more than 7.
        needed = math.ceil(self.threshold * len(found) - 1e-9)
        rarest = sorted(found, key=lambda word: (len(self.under[word]), word))
        probed = rarest[: len(found) - needed + 1]
        for place in {place for word in probed for place in self.under[word]}:
            other = self.texts[place]
            shared = len(found & other)
            if shared >= self.threshold * (len(found) + len(other) - shared) - 1e-9:
                return False
        for word in found:
            self.under[word].append(len(self.texts))
        self.texts.append(found)
        return True
