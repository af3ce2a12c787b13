"""Training sequences as flat arrays: seven bytes a token, in memory or on the disk.

WildChat is a third of a billion tokens. As Python lists that is tens of gigabytes for each
process; here one process writes the arrays, and all map the same files.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from userlm_synth.user_lm.render import CONTEXT, END, Rendered

Array = npt.NDArray[np.integer[Any]]
FILES = ("ids", "kinds", "turns", "starts", "owners")


@dataclass(frozen=True, eq=False)
class Windows:
    """n sequences of N tokens in all.

    ids [N] int32; kinds [N] uint8 (`CONTEXT`, `WORD`, ...); turns [N] uint16, the number of the
    speaker's turn at its targets, else 0; starts [n+1] int64; owners [n] int32, which
    conversation of the caller's list a sequence comes from.
    """

    ids: Array
    kinds: Array
    turns: Array
    starts: Array
    owners: Array

    @classmethod
    def of(cls, rendered: Iterable[tuple[int, Rendered]]) -> Windows:
        """From (conversation, sequence) pairs; a sequence without a target is left out."""
        ids, kinds, turns = array("i"), array("B"), array("H")
        starts, owners = array("q", [0]), array("i")
        for owner, one in rendered:
            if not any(one.kinds[1:]):  # nothing predicts the first token
                continue
            ids.extend(one.ids)
            kinds.extend(one.kinds)
            turns.extend(one.turns)
            starts.append(len(ids))
            owners.append(owner)
        parts = (ids, kinds, turns, starts, owners)
        return cls(*(np.array(part) for part in parts))

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence, [n]."""
        return np.diff(self.starts).astype(np.int64)

    def lengths_of(self, members: Sequence[int]) -> npt.NDArray[np.int64]:
        """Tokens of some of the sequences."""
        chosen = np.asarray(members, dtype=np.int64)
        return (self.starts[chosen + 1] - self.starts[chosen]).astype(np.int64)

    @property
    def targets(self) -> int:
        """How many tokens are trained on."""
        is_target = self.kinds != CONTEXT
        is_target[self.starts[:-1]] = False
        return int(is_target.sum())

    def weights(self, end_weight: float | str) -> npt.NDArray[np.float32]:
        """The weight of each token in the loss, [N]; 0 where it is no target.

        `token`: 1 each. A number: 1 each, and that number at `<|endconversation|>`. `sample`: a
        turn's tokens sum to 1, and the end token is 1, as in a mean over the K+1 samples.
        """
        is_target = self.kinds != CONTEXT
        is_target[self.starts[:-1]] = False
        weights: npt.NDArray[np.float32] = is_target.astype(np.float32)
        if end_weight == "sample":
            owner = np.repeat(np.arange(len(self)), self.lengths)
            turn = owner[is_target] * (int(self.turns.max(initial=0)) + 1) + self.turns[is_target]
            _, turn, counts = np.unique(turn, return_inverse=True, return_counts=True)
            weights[is_target] = 1.0 / counts[turn]
        elif end_weight != "token":
            weights[is_target & (self.kinds == END)] = float(end_weight)
        return weights

    @property
    def hash(self) -> str:
        """Of the content, in hex."""
        digest = hashlib.sha256()
        for name in FILES:
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        return digest.hexdigest()[:24]

    def save(self, folder: Path) -> None:
        """Write the arrays to `folder`, one .npy file each."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def open(cls, folder: Path) -> Windows:
        """Map the arrays that `save` wrote."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in FILES))
