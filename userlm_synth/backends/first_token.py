"""The filter of a turn's first token inside vLLM's sampler: a logits processor of ours.

vLLM loads it by its name, PROCESSOR (`--logits-processors`); `serve` and the `vllm:` backend do.
Then a request may carry token ids that have no probability as its first token, and as that alone:

    "vllm_xargs": {"banned_first": [13, 42]}          over HTTP, chat and completions
    SamplingParams(extra_args={"banned_first": [13]}) in process

A server without the processor takes the field and does not look at it. So a client asks first: a
request with `"vllm_xargs": PROBE` is refused by a server that has the processor (status 400, and
the message holds FIELD), and answered by one that has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PROCESSOR = "userlm_synth.backends.first_token:FirstToken"
FIELD = "banned_first"
PROBE = {FIELD: "?"}


def banned_first(extra: Mapping[str, Any] | None) -> list[int]:
    """The ids that a request's extra arguments name; `ValueError` for anything but ids."""
    ids = (extra or {}).get(FIELD, [])
    if not isinstance(ids, list) or not all(type(one) is int and one >= 0 for one in ids):
        raise ValueError(f"{FIELD} is a list of token ids, not {ids!r}")
    return ids


def ban(logits: torch.Tensor, rows: Mapping[int, Sequence[int]]) -> None:
    """Take, in place, all probability from some tokens of some rows of logits [R, V].

    Ids beyond the vocabulary are passed over: nobody can sample them.
    """
    import torch

    size = logits.shape[1]
    places = [(row, token) for row, ids in rows.items() for token in ids if token < size]
    if places:
        where = torch.tensor(places).to(logits.device, non_blocking=True)
        logits[where[:, 0], where[:, 1]] = -torch.inf


def __getattr__(name: str) -> Any:
    if name == "FirstToken":  # needs vLLM, which nobody else who reads this module has to have
        return _processor()
    raise AttributeError(name)


@cache
def _processor() -> type:
    """The class, for both of vLLM's model runners: each wants a subclass of an interface of its
    own, with other arguments, and which one runs is known only later."""
    from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

    bases: list[Any] = [LogitsProcessor]
    try:
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as Second
    except ImportError:  # before vLLM had the second runner
        pass
    else:
        bases.append(Second)

    class FirstToken(*bases):  # type: ignore[misc]
        def __init__(self, config: Any, states: Any, *_: Any) -> None:
            self.rows: dict[int, tuple[list[int], list[int]]] = {}
            self.slots: dict[int, list[int]] = {}
            self.states = states

        @classmethod
        def validate_params(cls, params: Any) -> None:
            banned_first(params.extra_args)

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:  # first runner: before each step
            process_dict_updates(self.rows, batch_update, _row)
            self.rows = {row: kept for row, kept in self.rows.items() if not kept[1]}

        def add_request(self, slot: int, params: Any) -> bool:  # second runner
            self.slots[slot] = banned_first(params.extra_args)
            return bool(self.slots[slot])

        def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
            if context is None:
                ban(logits, {row: ids for row, (ids, _) in self.rows.items()})
            else:
                ban(logits, _first_rows(self.slots, self.states, context))
            return logits

    return FirstToken


def _row(params: Any, _: list[int] | None, output: list[int]) -> tuple[list[int], list[int]] | None:
    """What the first runner keeps of a request; one that was put aside has an output already."""
    ids = banned_first(params.extra_args)
    return (ids, output) if ids and not output else None


def _first_rows(
    slots: Mapping[int, Sequence[int]], states: Any, context: Any
) -> dict[int, Sequence[int]]:
    """Rows of the second runner's logits that are the first token of a request with banned ones:
    the tokens to be seen there are the prompt's."""
    import numpy as np

    at = context.idx_mapping_np
    first = np.flatnonzero(context.seq_lens_upper_bound_np == states.prompt_len.np[at])
    found = {int(place): slots.get(int(at[place]), ()) for place in first}
    found = {place: ids for place, ids in found.items() if ids}
    if found and len(context.expanded_idx_mapping) != len(at):  # drafts have rows of their own
        rows = context.expanded_idx_mapping.tolist()
        found = {rows.index(int(at[place])): ids for place, ids in found.items()}
    return found
