"""The training loop: AdamW, warm-up and cosine decay, weighted mean loss over a step's targets.

On one device or, under `torchrun`, on many with sharded weights. Data order, random numbers and
learning rate depend on the seed and the step alone, so a run that was killed ends with the
weights of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.recipe import lasting
from userlm_synth.records import Record, stable_hash
from userlm_synth.training.attention import use_packed_attention
from userlm_synth.training.batches import collate, micro_batches, pack, plan
from userlm_synth.training.checkpoints import States
from userlm_synth.training.flops import peak_flops, sizes_of, step_flops
from userlm_synth.training.loss import objective
from userlm_synth.training.ranks import Ranks, device_name, join, shard
from userlm_synth.training.stopping import Stop, explain_out_of_memory
from userlm_synth.training.tokens import Windows
from userlm_synth.training.watching import Unwatched, Watch, read_log
from userlm_synth.user_lm.render import END

if TYPE_CHECKING:
    from userlm_synth.recipe import Training

Validate = Callable[[Any], tuple[Record, str | None]]  # the objective -> figures, a sample


@dataclass(frozen=True, eq=False)
class Job:
    """What `fit` trains on: the sequences, the names of the conversations that they are from (for
    messages; the first process has them), the padding token, the seed, and `start`, which names the
    weights to begin with."""

    windows: Windows
    names: Sequence[str]
    pad: int
    seed: int
    start: str


def fit(
    model: Any,
    job: Job,
    options: Training,
    *,
    stage: str,
    states: Path,
    validate: Validate | None = None,
) -> list[Record]:
    """Train `model` in place; returns the log: a line a step (losses in nats a target), and one
    with `validation` for each of them.

    An interrupted run continues from `states` only if data, settings and start are the same.
    """
    ranks = join()
    settings = lasting(asdict(options))
    key = stable_hash(job.start, settings, job.seed, job.windows.hash)
    with Stop(ranks) as stop, explain_out_of_memory():
        trainer = Trainer(model, job, options, ranks)
        saved = States(states, key, ranks)
        if first := saved.load(trainer.model, trainer.optimizer):
            say(f"  {stage}: continues at step {first} of {len(trainer.steps)}")
        last_save = time.monotonic()
        validations = validation_steps(len(trainer.steps), options.validations if validate else 0)
        watching = Unwatched() if not ranks.first else Watch(
            states, stage=stage, total_steps=len(trainer.steps), start_step=first,
            log_to=options.log_to, run_name=f"{stage} {key[:8]}", settings=settings,
        )  # fmt: skip
        with watching as watch:
            for number in range(first, len(trainer.steps)):
                watch.line(trainer.step(number))
                if validate and number + 1 in validations:
                    figures, sample = validate(trainer.objective)
                    watch.validation({"step": number + 1, **figures}, sample)
                stopping = stop.asked()
                due = time.monotonic() - last_save > 60 * options.checkpoint_minutes
                if stopping or ranks.share(due):
                    saved.save(number + 1, trainer.model, trainer.optimizer)
                    last_save = time.monotonic()
                if stopping:
                    raise KeyboardInterrupt
    ranks.wait()
    return read_log(states)


class Trainer:
    """Model, optimizer and plan; `step` does one update."""

    def __init__(self, model: Any, job: Job, options: Training, ranks: Ranks) -> None:
        import torch

        self.job, self.options, self.ranks = job, options, ranks
        packed = use_packed_attention(model)
        lengths = job.windows.lengths
        rows = pack(lengths, options.max_length) if packed else [[i] for i in range(len(lengths))]
        self.steps = plan(rows, options, job.seed)
        self.rows_at_once = (
            max(1, options.micro_batch_tokens // options.max_length) if packed else 1
        )
        self.weights = job.windows.weights(options.end_weight)
        self.window_weights = np.add.reduceat(self.weights, job.windows.starts[:-1], dtype=float)
        self.half = wants_bf16(options.precision, ranks.device)
        self.sizes = sizes_of(model)
        self.peak = peak_flops(device_name(ranks.device)) if self.half else None  # bf16's
        if options.gradient_checkpointing:
            new = getattr(model, "activation_checkpointing_enable", None)  # transformers 5.20
            (new or model.gradient_checkpointing_enable)()
        layers = decoder_layers(model)
        if options.compile:
            for layer in layers:
                # Segments differ from batch to batch: what is compiled for the first alone is lost.
                layer.compile(dynamic=True)
        self.objective = objective(model)
        if ranks.world > 1:
            shard(self.objective, layers, ranks, self.half)
        self.model = model.to(ranks.device).train()
        self.optimizer = make_optimizer(self.model, options)
        self.autocast = torch.autocast(ranks.device.type, torch.bfloat16, enabled=self.half)

    def step(self, number: int) -> Record:
        """One update on the rows of step `number` (from 0), in micro-batches."""
        import torch

        started = time.monotonic()
        ranks, windows = self.ranks, self.job.windows
        torch.manual_seed((self.job.seed << 32) + number * ranks.world + ranks.rank)
        rate = learning_rate(number, len(self.steps), self.options)
        for group in self.optimizer.param_groups:
            # torchao's is a tensor, which its compiled step reads
            group["lr"] = group["lr"].fill_(rate) if torch.is_tensor(group["lr"]) else rate
        members = [index for row in self.steps[number] for index in row]
        scale = ranks.world / max(float(self.window_weights[members].sum()), 1e-12)
        figures = torch.zeros(6, dtype=torch.float64, device=ranks.device)
        seen: list[tuple[Any, Any]] = []
        for some in micro_batches(self.steps[number], ranks.rank, ranks.world, self.rows_at_once):
            batch = collate(windows, some, self.job.pad, self.weights).to(ranks.device)
            with self.autocast:
                losses = self.objective(batch, scale)
            losses.total.backward()
            ends = batch.kinds == END
            each = losses.each.double()
            figures[:5] += torch.stack(
                [each.sum(), (each * ends).sum(), (losses.hits & ends).sum(),
                 ends.sum(), torch.tensor(len(each), device=ranks.device)]
            )  # fmt: skip
            seen.append((each, batch.owners))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        figures[5] = norm / ranks.world
        total, end_total, found, ends_seen, targets, gradient = ranks.sums(figures).tolist()
        if not math.isfinite(total + gradient):
            ranks.fail(self._diverged(number, seen))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.monotonic() - started
        line = {
            "step": number + 1,
            "loss": total / max(targets, 1),
            "targets": targets,
            "ends": ends_seen,
            "tokens": int(windows.lengths_of(members).sum()),
            "gradient_norm": gradient,
            "learning_rate": rate,
            "seconds": seconds,
        }
        if ends_seen:
            line |= {"end_loss": end_total / ends_seen, "end_accuracy": found / ends_seen}
        if self.peak and self.sizes:
            flops = step_flops(self.sizes, windows.lengths_of(members), int(targets))
            line["mfu"] = flops / seconds / self.peak / ranks.world
        return line

    def _diverged(self, number: int, seen: list[tuple[Any, Any]]) -> str:
        """Names the conversations whose losses are not finite, or all of the step's."""
        bad = [owner for each, owners in seen for owner in owners[~each.isfinite()].tolist()]
        bad = bad or [owner for _, owners in seen for owner in owners.tolist()]
        found = {owner for some in self.ranks.gather(bad) for owner in some}
        owners = sorted({int(self.job.windows.owners[index]) for index in found})
        names = [self.job.names[owner] for owner in owners] if self.ranks.first else []
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return (
            f"step {number + 1}: the loss or its gradient is not a number, in the conversations "
            f"{', '.join(names[:5])}{more}; look at them, or lower train.learning_rate (now "
            f"{self.options.learning_rate:g}); the states before are kept"
        )


def validation_steps(steps: int, count: int) -> set[int]:
    """After which steps to validate: evenly spread, the last at the end."""
    return {round(steps * (i + 1) / count) for i in range(count)}


def decoder_layers(model: Any) -> list[Any]:
    """The transformer blocks of a causal LM."""
    import torch

    depth = model.config.num_hidden_layers
    for part in model.base_model.modules():
        if isinstance(part, torch.nn.ModuleList) and len(part) == depth:
            return list(part)
    return []


def wants_bf16(precision: str, device: Any) -> bool:
    """Matrix products in bf16 (weights stay fp32): where asked for, or where the chip has them."""
    import torch

    if precision != "auto":
        return precision == "bf16"
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


def make_optimizer(model: Any, options: Training) -> Any:
    """AdamW with fp32 states, or with 8-bit ones (torchao); matrices decay, vectors (norms,
    biases) do not."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    adam: dict[str, Any] = {"lr": options.learning_rate, "betas": (0.9, 0.95)}
    if options.optimizer == "adamw_8bit":
        try:
            from torchao.optim import AdamW8bit
        except ImportError:
            raise UserError(
                "train.optimizer: adamw_8bit needs torchao: pip install 'userlm-synth[train-gpu]'"
            ) from None
        return AdamW8bit(groups, **adam)
    return torch.optim.AdamW(groups, fused=True, **adam)
