"""The training loop: AdamW, warm-up and cosine decay, mean loss over a step's targets.

One process, one device (the GPU where there is one). The order of the data depends on the seed
and the step alone, so a run that was killed ends with the weights of one that was not.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.progress import Progress, say
from userlm_synth.records import stable_hash
from userlm_synth.training.batches import Row, collate, pack
from userlm_synth.training.checkpoints import States
from userlm_synth.training.loss import token_losses, weights
from userlm_synth.user_lm.render import END, Rendered

if TYPE_CHECKING:
    from userlm_synth.recipe import Training

LogLine = dict[str, float]


def fit(
    model: Any,
    sequences: Sequence[Rendered],
    options: Training,
    *,
    stage: str,
    states: Path,
    start: str,
    pad: int,
    seed: int,
) -> list[LogLine]:
    """Train `model` in place; returns one line a step (loss in nats a target, learning rate).

    `start` names the weights that the model came with: an interrupted run continues from
    `states` only if data, settings and start are the same.
    """
    import torch

    rows = pack([len(one.ids) for one in sequences], options.max_length)
    steps = plan(rows, options, seed)
    settings = {k: v for k, v in asdict(options).items() if k != "checkpoint_minutes"}
    key = stable_hash(start, settings, seed, [one.ids for one in sequences])
    saved = States(states, key)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, options.weight_decay),
        lr=options.learning_rate,
        betas=(0.9, 0.95),
        fused=device.type == "cuda",
    )
    first, log = 0, []  # type: int, list[LogLine]
    if state := saved.latest():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, log = state["step"], state["log"]
        say(f"  {stage}: continues at step {first} of {len(steps)}")
    last_save = time.monotonic()
    tokens = [sum(len(sequences[i].ids) for row in step for i in row) for step in steps]
    with Progress(stage, sum(tokens), "tokens", sum(tokens[:first])) as progress:
        for number in range(first, len(steps)):
            rate = learning_rate(number, len(steps), options)
            for group in optimizer.param_groups:
                group["lr"] = rate
            line = train_step(model, optimizer, sequences, steps[number], options, pad)
            log.append({"step": number + 1, "learning_rate": rate, **line})
            progress.step(tokens[number], f"loss {line['loss']:.3f}")
            if time.monotonic() - last_save > 60 * options.checkpoint_minutes:
                saved.save(number + 1, {**_state(model, optimizer), "log": log})
                last_save = time.monotonic()
    model.to("cpu").eval()
    return log


def _state(model: Any, optimizer: Any) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def plan(rows: list[Row], options: Training, seed: int) -> list[list[Row]]:
    """The rows of every optimizer step: each epoch a fresh order, drawn from the seed alone."""
    per_step = max(1, options.batch_tokens // options.max_length)
    wanted = max(1, round(options.epochs * len(rows)))
    order: list[Row] = []
    epoch = 0
    while len(order) < wanted:
        shuffled = list(rows)
        random.Random(f"{seed} {epoch}").shuffle(shuffled)
        order += shuffled
        epoch += 1
    order = order[:wanted]
    return [order[i : i + per_step] for i in range(0, len(order), per_step)]


def train_step(
    model: Any,
    optimizer: Any,
    sequences: Sequence[Rendered],
    rows: list[Row],
    options: Training,
    pad: int,
) -> LogLine:
    """One update on some rows, in micro-batches; the loss is the mean over the step's targets."""
    import torch

    device = next(model.parameters()).device
    size = max(1, options.micro_batch_tokens // options.max_length)
    batches = [collate(sequences, rows[i : i + size], pad) for i in range(0, len(rows), size)]
    total = sum(float(weights(batch, options.end_weight).sum()) for batch in batches)
    figures = {"loss": 0.0, "end_loss": 0.0, "targets": 0.0, "ends": 0.0}
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=wants_bf16(options, device)):
            losses = token_losses(model, batch.to(device))
        weighted = losses * weights(batch, options.end_weight).to(device)
        (weighted.sum() / total).backward()
        ends = losses.detach()[batch.kinds.to(device) == END]
        figures["loss"] += float(losses.detach().sum())
        figures["end_loss"] += float(ends.sum())
        figures["targets"] += len(losses)
        figures["ends"] += len(ends)
    torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    figures["loss"] /= max(figures["targets"], 1)
    figures["end_loss"] /= max(figures["ends"], 1)
    return figures


def wants_bf16(options: Training, device: Any) -> bool:
    """Matrix products in bf16 (weights stay fp32): where asked for, or where the chip has them."""
    import torch

    if options.precision != "auto":
        return options.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(native and native())


def learning_rate(step: int, steps: int, options: Training) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` times the peak."""
    warm = max(1, round(options.warmup * steps))
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    low = options.final_learning_rate
    return options.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(model: Any, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors (norms, biases) do not."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
