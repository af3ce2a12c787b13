"""Keys and values of finished turns, kept by session, so that a dialogue's history is read once.

transformers' cache belongs to one batch, and the dialogues of a batch differ from turn to turn. So
each row is taken out of the batch's cache when a turn is done, and the next turn's batch is put
together from its rows: `[padding | cached tokens | padding | new tokens]`. The attention mask hides
both paddings, and `generate` counts positions by the mask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LIMIT = 2**30  # bytes kept; the sessions used longest ago go first


@dataclass
class Kept:
    """One session: its tokens and, for each layer, keys and values of shape [heads, n, d]."""

    ids: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)


@dataclass
class Layout:
    """A batch: what goes to `generate`, and where each row's tokens stand in its columns."""

    ids: list[list[int]]
    mask: list[list[int]]
    cache: Any
    columns: list[list[int]]


class SessionCache:
    """The kept rows of one model."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.kept: OrderedDict[str, Kept] = OrderedDict()
        self.limit = limit

    def lay_out(self, sessions: Sequence[str], prompts: Sequence[list[int]], pad: int) -> Layout:
        """The batch of some prompts; every prompt keeps at least one token to be computed."""
        past = [self._known(s, prompt) for s, prompt in zip(sessions, prompts, strict=True)]
        old = max(past)
        new = max(len(prompt) - known for prompt, known in zip(prompts, past, strict=True))
        layout = Layout([], [], self._joined(sessions, past, old) if old else None, [])
        for prompt, known in zip(prompts, past, strict=True):
            gap = new - (len(prompt) - known)
            layout.ids.append([pad] * (old - known) + prompt[:known] + [pad] * gap + prompt[known:])
            layout.mask.append(
                [0] * (old - known) + [1] * known + [0] * gap + [1] * (len(prompt) - known)
            )
            layout.columns.append([*range(old - known, old), *range(old + gap, old + new)])
        return layout

    def _known(self, session: str, prompt: list[int]) -> int:
        """How many of the prompt's first tokens are kept."""
        entry = self.kept.get(session) if session else None
        if entry is None:
            return 0
        limit = min(len(entry.ids), len(prompt) - 1)
        return next((i for i in range(limit) if entry.ids[i] != prompt[i]), limit)

    def _joined(self, sessions: Sequence[str], past: list[int], width: int) -> Any:
        from transformers import DynamicCache

        first = next(self.kept[s] for s, known in zip(sessions, past, strict=True) if known)
        joined = DynamicCache()
        for number, (keys, _) in enumerate(first.layers):
            heads, _, size = keys.shape
            pair = [keys.new_zeros(len(sessions), heads, width, size) for _ in range(2)]
            for row, (session, known) in enumerate(zip(sessions, past, strict=True)):
                if known:
                    for whole, part in zip(pair, self.kept[session].layers[number], strict=True):
                        whole[row, :, width - known :] = part[:, :known]
            joined.update(pair[0], pair[1], number)
        for session in sessions:
            if session in self.kept:
                self.kept.move_to_end(session)
        return joined

    def keep(
        self, sessions: Sequence[str], layout: Layout, made: Sequence[list[int]], cache: Any
    ) -> None:
        """Take the rows out of a batch's cache; `made` are the tokens that each row generated.

        Models whose layers forget (sliding windows) are left alone: their caches have no rows to
        take out.
        """
        if any(type(layer).__name__ != "DynamicLayer" for layer in cache.layers):
            return
        width = len(layout.ids[0])
        done = cache.layers[0].keys.shape[2] - width  # the last token's keys are never computed
        for row, session in enumerate(sessions):
            if not session:
                continue
            own = made[row][:done]
            columns = layout.columns[row] + list(range(width, width + len(own)))
            ids = [layout.ids[row][column] for column in layout.columns[row]] + own
            layers = [
                (layer.keys[row][:, columns].clone(), layer.values[row][:, columns].clone())
                for layer in cache.layers
            ]
            self.kept[session] = Kept(ids, layers)
            self.kept.move_to_end(session)
        total = sum(entry.bytes for entry in self.kept.values())
        while total > self.limit and self.kept:
            total -= self.kept.popitem(last=False)[1].bytes
