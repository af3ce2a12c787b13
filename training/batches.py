"""Sequences to packed rows to tensors: several conversations a row, invisible to each other.

Rows are filled best fit, longest sequence first. A row's sequences keep their own positions
(from 0) and a 4-dimensional mask lets a token see its own sequence only. A plain all-ones
attention mask here would let conversations read each other, silently.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from userlm_synth.user_lm.render import CONTEXT, WORD, Rendered

if TYPE_CHECKING:
    import torch

Row = list[int]  # indices of the sequences that share a row


def pack(lengths: Sequence[int], room: int) -> list[Row]:
    """Indices of sequences grouped into rows of at most `room` tokens, best fit decreasing.

    Deterministic; a sequence longer than `room` is an error of the caller.
    """
    rows: list[Row] = []
    free: list[tuple[int, int]] = []  # (room left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > room:
            raise ValueError(f"sequence {index} has {length} tokens, the row {room}")
        place = bisect.bisect_left(free, (length, -1))
        if place < len(free):
            left, row = free.pop(place)
            rows[row].append(index)
        else:
            left, row = room, len(rows)
            rows.append([index])
        bisect.insort(free, (left - length, row))
    return rows


@dataclass
class Batch:
    """Tensors of R rows and L columns (padded), and the T targets in them.

    ids, positions: [R, L] int64. mask: [R, 1, L, L] bool, True where a token may look. A target's
    own token is `labels` [T]; it is predicted at (`at_row`, `at_column`), one before it; `kinds`
    and `owners` [T] say what it is and which sequence of the caller's list it belongs to.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    at_row: torch.Tensor
    at_column: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor
    owners: torch.Tensor

    def to(self, device: Any) -> Batch:
        """The same batch on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def collate(sequences: Sequence[Rendered], rows: Sequence[Row], pad: int) -> Batch:
    """The tensors of some rows."""
    import torch

    width = max(sum(len(sequences[i].ids) for i in row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    segments = torch.full((len(rows), width), -1, dtype=torch.long)
    targets: list[tuple[int, int, int, int, int]] = []
    for r, row in enumerate(rows):
        start = 0
        for index in row:
            one = sequences[index]
            end = start + len(one.ids)
            ids[r, start:end] = torch.tensor(one.ids)
            positions[r, start:end] = torch.arange(end - start)
            segments[r, start:end] = index
            targets += [
                (r, start + column - 1, one.ids[column], kind, index)
                for column, kind in enumerate(one.kinds)
                if kind != CONTEXT and column > 0
            ]
            start = end
    same = segments[:, :, None] == segments[:, None, :]
    mask = (same & torch.ones(width, width, dtype=torch.bool).tril())[:, None]
    columns = torch.tensor(targets, dtype=torch.long).reshape(-1, 5).unbind(1)
    return Batch(ids, positions, mask, *columns)


def plain_text(ids: list[int]) -> Rendered:
    """A document whose every token but the first is a target: how a base model is trained."""
    return Rendered(ids=ids, kinds=[CONTEXT] + [WORD] * (len(ids) - 1), turns=[0] * len(ids))
