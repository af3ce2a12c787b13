"""Each conversation's user turns as one vector: by TF-IDF and SVD, or by a sentence model.

TF-IDF needs nothing and is the same on every machine; a sentence-embedding model sees meaning.
Both are fitted, or run, on all sides of a comparison together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userlm_synth.errors import UserError
from userlm_synth.metrics import words

DIMENSIONS = 128  # of TF-IDF, after the SVD
COLUMNS = 2**18  # hashed words and word pairs
CHARACTERS = 4000  # of a conversation that are embedded; models cut far earlier

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Vectors:
    """One row a conversation, of unit length (or zero, where a text holds nothing), float32."""

    made: Floats  # (n, d)
    people: Floats  # (n, d), or (0, d) without a reference
    others: Floats
    name: str  # what made them

    @property
    def dimensions(self) -> int:
        """Columns of each."""
        return int(self.made.shape[1])


def embed(sets: Sequence[Sequence[str]], model: str | None, seed: int) -> tuple[list[Floats], str]:
    """The vectors of each set of texts, and the name of what made them.

    `model`: None for TF-IDF and SVD, fitted on all sets together; else a folder or Hub id.
    """
    texts = [text[:CHARACTERS] for one in sets for text in one]
    table, name = by_model(texts, model) if model else by_words(texts, seed)
    ends = np.cumsum([len(one) for one in sets])[:-1]
    return np.split(table, ends), name


def by_words(texts: Sequence[str], seed: int = 0) -> tuple[Floats, str]:
    """TF-IDF of words and word pairs (1 + log tf, Salton & Buckley 1988), SVD to `DIMENSIONS`
    (latent semantic analysis, Deerwester et al. 1990), rows of unit length.

    Fewer texts or words give fewer dimensions; the name says how many.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    hashed = HashingVectorizer(
        analyzer=_terms, n_features=COLUMNS, norm=None, alternate_sign=False, dtype=np.float32
    )
    counts = hashed.transform(texts)
    counts = counts[:, np.flatnonzero(counts.getnnz(axis=0))]
    dimensions = min(DIMENSIONS, min(counts.shape) - 1)
    if dimensions < 1:  # one text, or one word in all: nothing to reduce
        table = counts.toarray() if counts.shape[1] else np.zeros((len(texts), 1))
        return unit(table), f"TF-IDF {table.shape[1]}"
    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    svd = TruncatedSVD(dimensions, random_state=seed % 2**32, n_iter=3)
    with warnings.catch_warnings():
        # texts without variance divide by it, for a figure that nobody reads
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        table = svd.fit_transform(weighted)
    return unit(table), f"TF-IDF, SVD {dimensions}"


def _terms(text: str) -> list[str]:
    found = words(text)
    return found + [f"{one} {two}" for one, two in pairwise(found)]


def by_model(texts: Sequence[str], model: str) -> tuple[Floats, str]:
    """Vectors of a sentence-embedding model, run on the CPU or the first GPU.

    Raises `UserError` where the package or the model is missing, or its weights are not
    safetensors.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            "report.embedding: sentence-transformers is not installed; "
            "`pip install 'userlm-synth[embeddings]'`, or leave it out for TF-IDF"
        ) from None
    try:
        loaded = SentenceTransformer(
            model, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
        table = loaded.encode(
            list(texts), batch_size=64, convert_to_numpy=True, show_progress_bar=False
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise UserError(
            f"report.embedding: {model} cannot be used ({line}); name a folder or Hub id of a "
            "sentence-transformers model with safetensors weights, or leave it out for TF-IDF"
        ) from error
    return unit(np.asarray(table)), model


def unit(table: NDArray[Any]) -> Floats:
    """Rows of length 1; a row of zeros stays."""
    table = np.asarray(table, dtype=np.float32)
    length = np.linalg.norm(table, axis=1, keepdims=True)
    found: Floats = np.divide(table, length, out=np.zeros_like(table), where=length > 0)
    return found
