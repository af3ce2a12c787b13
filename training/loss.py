"""The loss, where there is a target only: hidden states are gathered before the head.

Memory of head and loss is bounded by a chunk of targets, not by vocabulary x length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from userlm_synth.errors import UserError
from userlm_synth.training.batches import Batch
from userlm_synth.user_lm.render import END

if TYPE_CHECKING:
    import torch

CHUNK = 2048  # targets scored at once


def hidden_at_targets(model: Any, batch: Batch) -> torch.Tensor:
    """The last hidden states that predict the targets, shape [T, hidden]."""
    states = model.base_model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask=batch.mask,
        use_cache=False,
    ).last_hidden_state
    gathered: torch.Tensor = states[batch.at_row, batch.at_column]
    return gathered


def logits_of(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """[N, hidden] -> [N, vocabulary], in fp32 at least, as the model's own forward makes them."""
    import torch

    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    cap = _softcap(model)
    return cap * torch.tanh(logits / cap) if cap else logits


def token_losses(model: Any, batch: Batch) -> torch.Tensor:
    """Negative log-likelihoods in nats, one a target, shape [T], with gradients."""
    import torch
    from torch.utils.checkpoint import checkpoint

    hidden = hidden_at_targets(model, batch)

    def losses(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits_of(model, states), labels, reduction="none")

    if len(hidden) <= CHUNK:
        return losses(hidden, batch.labels)
    return torch.cat(
        [checkpoint(losses, h, t, use_reentrant=False) for h, t in _chunks(hidden, batch.labels)]
    )


def score_hidden(
    model: Any, hidden: torch.Tensor, labels: torch.Tensor, end_id: int | None, firsts: torch.Tensor
) -> tuple[torch.Tensor, tuple[list[bool], list[float]]]:
    """Losses [T] without gradients and, where `firsts` [T] is true, whether the end token is the
    most likely one, and its probability."""
    import torch

    losses: list[torch.Tensor] = []
    leaves: list[bool] = []
    chances: list[float] = []
    for states, wanted, first in zip(
        hidden.split(CHUNK), labels.split(CHUNK), firsts.split(CHUNK), strict=True
    ):
        logits = logits_of(model, states)
        losses.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
        if end_id is None:
            leaves += [False] * int(first.sum())
            chances += [0.0] * int(first.sum())
        else:
            leaves += (logits[first].argmax(-1) == end_id).tolist()
            chances += logits[first].softmax(-1)[:, end_id].tolist()
    return torch.cat(losses), (leaves, chances)


def _chunks(hidden: torch.Tensor, labels: torch.Tensor) -> Any:
    return zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True)


def _softcap(model: Any) -> float | None:
    for name in ("logits_scaling", "logit_scale"):
        if getattr(model.config, name, 1.0) not in (None, 1.0):
            raise UserError(f"{model.config.model_type}: models with {name} are not supported yet")
    cap: float | None = getattr(model.config, "final_logit_softcapping", None)
    return cap


def weights(batch: Batch, end_weight: float) -> torch.Tensor:
    """One weight a target, [T]: `end_weight` at `<|endconversation|>`, 1 elsewhere."""
    import torch

    return torch.where(batch.kinds == END, end_weight, 1.0)
