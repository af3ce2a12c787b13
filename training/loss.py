"""The loss, where there is a target only: hidden states are gathered before the head.

Head and loss are one operation which computes its gradients as it goes, a chunk of targets at a
time. Its memory is bounded by the chunk and the gradient of the head, not by vocabulary x length.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from userlm_synth.training.batches import STEP_SIZES, Batch

if TYPE_CHECKING:
    import torch

CHUNK_BYTES = 64 << 20  # of logits at once


def hidden_at_targets(model: Any, batch: Batch) -> torch.Tensor:
    """The last hidden states that predict the targets, shape [T, hidden]."""
    states = model.base_model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        cu_seq_lens_q=batch.offsets,
        segments=batch.segments,
        use_cache=False,
    ).last_hidden_state
    gathered: torch.Tensor = states[0, batch.at]
    return gathered * _head_scale(model)


class Losses:
    """What a batch came to: `total`, the weighted sum of its losses times `scale`, to go backward
    from; and without gradients `each` [T], the losses in nats, and `hits` [T], whether the target
    was the most likely token."""

    def __init__(self, total: torch.Tensor, each: torch.Tensor, hits: torch.Tensor) -> None:
        self.total, self.each, self.hits = total, each, hits


def batch_losses(model: Any, batch: Batch, scale: float = 1.0) -> Losses:
    """Negative log-likelihoods of a batch's targets under `model`."""
    import torch

    count = len(batch.labels)
    filled = -count % STEP_SIZES  # with weight 0

    def fill(one: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(one, (0, 0) * (one.ndim - 1) + (0, filled))

    head = model.get_output_embeddings()
    total, each, hits = _head_and_loss()(
        fill(hidden_at_targets(model, batch)), head.weight, getattr(head, "bias", None),
        fill(batch.labels), fill(batch.weights * scale),
        getattr(model.config, "final_logit_softcapping", None), torch.is_grad_enabled(),
    )  # fmt: skip
    return Losses(total, each[:count], hits[:count])


def score_hidden(
    model: Any, hidden: torch.Tensor, labels: torch.Tensor, end_id: int | None, firsts: torch.Tensor
) -> tuple[torch.Tensor, tuple[list[bool], list[float]]]:
    """Losses [T] without gradients and, where `firsts` [T] is true, whether the end token is the
    most likely one, and its probability."""
    import torch

    losses: list[torch.Tensor] = []
    leaves: list[bool] = []
    chances: list[float] = []
    for part in _chunks(len(labels), model.get_output_embeddings().weight.shape[0]):
        logits = logits_of(model, hidden[part])
        losses.append(torch.nn.functional.cross_entropy(logits, labels[part], reduction="none"))
        first = firsts[part]
        if end_id is None:
            leaves += [False] * int(first.sum())
            chances += [0.0] * int(first.sum())
        else:
            leaves += (logits[first].argmax(-1) == end_id).tolist()
            chances += logits[first].softmax(-1)[:, end_id].tolist()
    return torch.cat(losses), (leaves, chances)


def logits_of(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """[N, hidden] (of `hidden_at_targets`) -> [N, vocabulary], in fp32 at least."""
    import torch

    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def _head_scale(model: Any) -> float:
    """Granite divides its logits by a constant, Cohere multiplies."""
    divide = getattr(model.config, "logits_scaling", None) or 1.0
    return (getattr(model.config, "logit_scale", None) or 1.0) / float(divide)


def _chunks(count: int, vocabulary: int) -> Iterator[slice]:
    size = max(16, CHUNK_BYTES // (4 * vocabulary))
    yield from (slice(start, start + size) for start in range(0, count, size))


@functools.cache
def _head_and_loss() -> Any:
    """The operation, made on first use: torch is not imported before it is needed."""
    import torch

    class HeadAndLoss(torch.autograd.Function):
        """hidden [T, h], weight [V, h], bias [V] or None, labels [T], scales [T] -> sum of scales x
        losses, losses [T], hits [T]. Gradients are made going forward."""

        @staticmethod
        def forward(
            ctx: Any, hidden: Any, weight: Any, bias: Any, labels: Any, scales: Any,
            softcap: float | None, backward: bool,
        ) -> Any:  # fmt: skip
            wants = [wanted and backward for wanted in ctx.needs_input_grad[:3]]
            wants_hidden, wants_weight, wants_bias = wants
            compute = weight.dtype
            if torch.is_autocast_enabled(hidden.device.type):
                compute = torch.get_autocast_dtype(hidden.device.type)
            exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
            table = weight.to(compute)
            grad_hidden = torch.empty_like(hidden) if wants_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=exact) if wants_weight else None
            grad_bias = torch.zeros_like(bias, dtype=exact) if wants_bias else None
            losses = hidden.new_empty(len(labels), dtype=exact)
            hits = hidden.new_empty(len(labels), dtype=torch.bool)
            for part in _chunks(len(labels), len(weight)):
                states, wanted = hidden[part].to(compute), labels[part, None]
                with torch.autocast(hidden.device.type, enabled=False):
                    logits = torch.nn.functional.linear(states, table).to(exact)
                    if bias is not None:
                        logits += bias
                    if softcap:
                        logits = softcap * torch.tanh_(logits / softcap)
                    slope = 1 - (logits / softcap) ** 2 if softcap else None
                    own, (top, best) = logits.gather(1, wanted), logits.max(-1, keepdim=True)
                    hits[part] = (best == wanted)[:, 0]
                    total = logits.sub_(top).exp_().sum(-1, keepdim=True)  # in place: memory
                    losses[part] = (total.log() + top - own)[:, 0]
                    if not (wants_hidden or wants_weight):
                        continue
                    scale = scales[part, None].to(exact)
                    grad = logits.mul_(scale / total)  # softmax x scale
                    grad.scatter_add_(1, wanted, -scale)
                    if slope is not None:
                        grad *= slope
                    if grad_bias is not None:
                        grad_bias += grad.sum(0)
                    grad = grad.to(compute)
                    if grad_hidden is not None:
                        grad_hidden[part] = (grad @ table).to(hidden.dtype)
                    if grad_weight is not None:
                        if grad.dtype == grad_weight.dtype:
                            grad_weight.addmm_(grad.T, states)
                        else:
                            grad_weight += grad.T @ states
            weighted = (losses * scales).sum()
            ctx.save_for_backward(
                grad_hidden,
                None if grad_weight is None else grad_weight.to(weight.dtype),
                None if grad_bias is None else grad_bias.to(bias.dtype),
            )
            ctx.mark_non_differentiable(losses, hits)
            return weighted, losses, hits

        @staticmethod
        def backward(ctx: Any, upstream: Any, *_: Any) -> Any:
            grads = [g if g is None else g.mul_(upstream.to(g.dtype)) for g in ctx.saved_tensors]
            return (*grads, None, None, None, None)

    return HeadAndLoss.apply


@functools.cache
def _objective() -> Any:
    import torch

    class Objective(torch.nn.Module):
        """The model with its loss as its forward, which is what sharding has to be around: the
        head's weights are there while its forward runs."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Batch, scale: float, logits: bool = False) -> Any:
            if logits:
                return logits_of(self.model, hidden_at_targets(self.model, batch))
            return batch_losses(self.model, batch, scale)

    return Objective


def objective(model: Any) -> Any:
    """A module that maps (batch, scale) to `Losses` of `model`, which is its `.model`; or, asked
    for logits, to [T, vocabulary]."""
    return _objective()(model)
