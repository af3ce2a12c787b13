"""Our half of `training.py`: the passes to compare, and what our own code costs in a step."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from training_peers import MAX_LENGTH, ROWS, Pass, Run, clock, conversations, rows_a_step, untrained

from userlm_synth.recipe import Training
from userlm_synth.training import loop, loss
from userlm_synth.training.batches import pack
from userlm_synth.training.loop import Job, Trainer, fit
from userlm_synth.training.ranks import join
from userlm_synth.training.tokens import Windows
from userlm_synth.training.watching import Watch
from userlm_synth.user_lm.render import Rendered

LARGE = {"hidden": 768, "layers": 12, "vocabulary": 32000}  # 110M parameters
STEPS = {"cpu": 4, "cuda": 200}


def ours(options: Namespace, chats: list[Rendered]) -> Run:
    """The steps of `userlm-synth train`, with its log."""
    each = rows_a_step(options, len(pack([len(one.ids) for one in chats], MAX_LENGTH)))
    at_once = min(each, ROWS[options.device])
    training = settings(options, batch_rows=each, micro_batch_rows=at_once)
    trainer = Trainer(untrained(options), job_of(options, chats), training, join())
    folder = Path(options.folder) / "ours"

    def run(limit: int | None) -> Pass:
        done = Pass(steps=len(trainer.steps[:limit]))
        with Watch(
            folder, stage="ours", total_steps=done.steps, start_step=0, log_to=(),
            run_name="ours", settings={},
        ) as watch:  # fmt: skip
            wall, cpu = clock(options)
            for number in range(done.steps):
                line = trainer.step(number)
                watch.line(line)
                done.loss += line["loss"] * line["targets"]
                done.tokens += line["tokens"]
            ended = clock(options)
        done.seconds, done.cpu_seconds = ended[0] - wall, ended[1] - cpu
        return done

    return run


def job_of(options: Namespace, chats: list[Rendered]) -> Job:
    names = [str(number) for number in range(len(chats))]
    return Job(Windows.of(enumerate(chats)), names, pad=0, seed=options.seed, start="random")


def settings(
    options: Namespace, *, batch_rows: int, micro_batch_rows: int, max_steps: int | None = None
) -> Training:
    """A recipe's settings; the learning rate is 0 as the peers' is."""
    return Training(
        learning_rate=0.0,
        max_length=MAX_LENGTH,
        max_steps=max_steps,
        batch_tokens=batch_rows * MAX_LENGTH,
        micro_batch_tokens=micro_batch_rows * MAX_LENGTH,
        precision=options.precision,
    )


def overhead(options: Namespace) -> dict[str, float]:
    """The share of a training at 110M parameters that is neither forward nor backward nor
    optimizer: from rendered conversations on, that is packing, plan, collation, log. A step has
    2,048 tokens, the fewest that it can have, so nothing is spread over many."""
    vars(options).update(LARGE)
    steps = STEPS[options.device]
    options.conversations = 10 * steps  # of about 400 tokens: more than enough to fill the rows
    chats = conversations(options)
    model = untrained(options)
    training = settings(options, batch_rows=1, micro_batch_rows=1, max_steps=steps)
    inside = [0.0]
    with timed(options, inside):
        started, _ = clock(options)
        job, states = job_of(options, chats), Path(options.folder) / "states"
        log = fit(model, job, training, stage="overhead", states=states)
        whole = clock(options)[0] - started
    assert len(log) == steps
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "seconds_a_step": whole / steps,
        "own_seconds_a_step": (whole - inside[0]) / steps,
        "share": 1 - inside[0] / whole,
    }


@contextlib.contextmanager
def timed(options: Namespace, inside: list[float]) -> Iterator[None]:
    """Adds up in `inside` the seconds of what any training computes; waits for the GPU each time,
    so that nothing of ours hides behind it."""

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            started, _ = clock(options)
            result = work(*args, **more)
            inside[0] += clock(options)[0] - started
            return result

        return call

    def objective(model: Any) -> Any:
        made = loss.objective(model)
        made.forward = watched(made.forward)
        return made

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(loop, "objective", objective))
        for owner, name in (
            (torch.Tensor, "backward"),
            (torch.nn.utils, "clip_grad_norm_"),
            (torch.optim.AdamW, "step"),
            (torch.nn.Module, "to"),
        ):
            work = watched(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, work))
        yield
