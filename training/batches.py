"""Sequences to packed rows to tensors: several conversations a row, invisible to each other.

Rows are filled best fit, longest sequence first. A micro-batch is one flat row of sequences, each
with positions of its own (from 0) and attention within itself (`attention.py`): no padding.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from userlm_synth.training.tokens import Windows
from userlm_synth.user_lm.render import CONTEXT, WORD, Rendered

if TYPE_CHECKING:
    import torch

    from userlm_synth.recipe import Training

#: Rows and targets are filled up to a multiple of this: each size that a processor's matrix library
#: meets costs it memory and preparation, and a GPU likes such sizes.
STEP_SIZES = 128

Row = list[int]  # indices of the sequences that share a row


def pack(lengths: Sequence[int] | npt.NDArray[np.int64], room: int) -> list[Row]:
    """Indices of sequences grouped into rows of at most `room` tokens, best fit decreasing.

    Deterministic; a sequence longer than `room` is an error of the caller.
    """
    rows: list[Row] = []
    free: dict[int, list[int]] = {}  # room left -> rows
    lefts: list[int] = []  # the keys of `free`, sorted
    sizes = np.asarray(lengths)
    for index in np.argsort(-sizes, kind="stable").tolist():
        length = int(sizes[index])
        if length > room:
            raise ValueError(f"sequence {index} has {length} tokens, the row {room}")
        place = bisect.bisect_left(lefts, length)
        if place < len(lefts):
            left = lefts[place]
            row = free[left].pop()
            rows[row].append(index)
            if not free[left]:
                del free[left], lefts[place]
        else:
            left, row = room, len(rows)
            rows.append([index])
        if (left := left - length) not in free:
            free[left] = []
            bisect.insort(lefts, left)
        free[left].append(row)
    return rows


def plan(rows: Sequence[Row], options: Training, seed: int) -> list[list[Row]]:
    """The rows of every optimizer step: each epoch a fresh order, drawn from the seed alone."""
    per_step = max(1, options.batch_tokens // options.max_length)
    wanted = max(1, round(options.epochs * len(rows)))
    if options.max_steps:
        wanted = min(wanted, options.max_steps * per_step)
    order: list[Row] = []
    epoch = 0
    while len(order) < wanted:
        shuffled = list(rows)
        random.Random(f"{seed} {epoch}").shuffle(shuffled)
        order += shuffled
        epoch += 1
    order = order[:wanted]
    return [order[i : i + per_step] for i in range(0, len(order), per_step)]


def micro_batches(step: Sequence[Row], rank: int, world: int, rows_at_once: int) -> list[list[int]]:
    """The sequences of each micro-batch that one of `world` processes computes in a step.

    Every process gets as many micro-batches, since they wait for each other in each one; where
    the rows do not go round, the last are empty and add nothing to the gradient.
    """
    rounds = -(-len(step) // (world * rows_at_once))
    own = list(step[rank::world])
    return [
        [index for row in own[i * rows_at_once : (i + 1) * rows_at_once] for index in row]
        for i in range(rounds)
    ]


@dataclass
class Batch:
    """S sequences of N tokens in all, flat, and the T targets in them; the last sequence may be
    padding.

    ids, positions: [1, N] int64. offsets: [S+1] int32, where sequences start and end; segments:
    their lengths. A target's own token is `labels` [T]; it is predicted at column `at` [T], one
    before it; `kinds`, `turns` and `owners` [T] say what it is, which turn of the speaker it
    belongs to and which sequence; `weights` [T] float32 are 1 unless given.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    offsets: torch.Tensor
    segments: tuple[int, ...]
    at: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor
    turns: torch.Tensor
    owners: torch.Tensor
    weights: torch.Tensor

    def to(self, device: Any) -> Batch:
        """The same batch on a device."""
        moved = {
            name: value if name == "segments" else value.to(device, non_blocking=True)
            for name, value in vars(self).items()
        }
        return Batch(**moved)


def collate(
    windows: Windows,
    members: Sequence[int],
    pad: int,
    weights: npt.NDArray[np.float32] | None = None,
) -> Batch:
    """The tensors of some sequences, filled up with padding, which is a sequence without targets.

    `weights` [all tokens of `windows`] are those of the targets.
    """
    import torch

    spans = [slice(int(windows.starts[i]), int(windows.starts[i + 1])) for i in members]
    real = [span.stop - span.start for span in spans]
    filled = -sum(real) % STEP_SIZES or (0 if real else STEP_SIZES)
    lengths = np.array([*real, filled] if filled else real, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    def joined(values: Any, fill: int = 0) -> Any:
        parts = [values[span] for span in spans]
        return np.concatenate([*parts, np.full(filled, fill, values.dtype)])

    ids = joined(windows.ids, pad).astype(np.int64)
    kinds = joined(windows.kinds).astype(np.int64)
    is_target = kinds != CONTEXT
    is_target[offsets[:-1]] = False  # nothing predicts the first token of a sequence
    (places,) = is_target.nonzero()
    chosen = np.ones(len(ids), np.float32) if weights is None else joined(weights)
    owners = np.repeat(np.array([*members, 0][: len(lengths)], dtype=np.int64), lengths)
    positions = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    return Batch(
        ids=torch.from_numpy(ids)[None],
        positions=torch.from_numpy(positions)[None],
        offsets=torch.from_numpy(offsets.astype(np.int32)),
        segments=tuple(lengths.tolist()),
        at=torch.from_numpy(places - 1),
        labels=torch.from_numpy(ids[places]),
        kinds=torch.from_numpy(kinds[places]),
        turns=torch.from_numpy(joined(windows.turns).astype(np.int64)[places]),
        owners=torch.from_numpy(owners[places]),
        weights=torch.from_numpy(chosen[places].astype(np.float32)),
    )


def plain_text(ids: list[int]) -> Rendered:
    """A document whose every token but the first is a target: how a base model is trained."""
    return Rendered(ids=ids, kinds=[CONTEXT] + [WORD] * (len(ids) - 1), turns=[0] * len(ids))
