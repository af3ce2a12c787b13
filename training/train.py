"""The training runs on one side's turns: a user LM, or an assistant LM from the same base."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.progress import say
from userlm_synth.records import Record
from userlm_synth.training.card import write_model_card
from userlm_synth.training.loop import Job, fit
from userlm_synth.training.ranks import Ranks, device_name, join
from userlm_synth.training.tokens import Windows
from userlm_synth.training.trackers import check_trackers
from userlm_synth.training.validation import Validation
from userlm_synth.user_lm import (
    ChatFormat,
    Rendered,
    fingerprint,
    load_model,
    load_tokenizer,
    open_chat,
    render_all,
    save_checkpoint,
)
from userlm_synth.user_lm.chat_format import Speaker
from userlm_synth.user_lm.checkpoint import checkpoint_dtype, set_generation

if TYPE_CHECKING:
    from userlm_synth.recipe import Training


def train_on_turns(
    base: str,
    conversations: Sequence[Record],
    options: Training,
    out: Path,
    *,
    speaker: Speaker,
    seed: int,
    validation: Sequence[Record] = (),
    card: Record | None = None,
) -> Record:
    """Train `base` on one side's turns: a user LM, or from the same base an assistant LM.

    `card`: what the model card says beside the training (`name`, `base`, `command`, `data`); None
    for no card. Under `torchrun` only the first process needs the conversations.
    """
    check_trackers(options.log_to)
    ranks = join()
    tokenizer, model = load_tokenizer(base), load_model(base)
    form = open_chat(model, tokenizer, speaker)
    states = out.parent / f".{out.name}.training"
    windows = shared(states, lambda: make_windows(form, conversations, options, seed), ranks)
    if not len(windows):
        ranks.fail(f"no {speaker} turn to train on in {len(conversations)} conversations")
    start = fingerprint(base)
    names = [one["id"] for one in conversations]
    log = fit(
        model, Job(windows, names, tokenizer.pad_token_id, seed, start), options,
        stage="user LM" if speaker == "user" else "assistant LM", states=states,
        validate=Validation(form, validation, options, seed, ranks) if validation else None,
    )  # fmt: skip
    set_generation(model, form)
    made = {"made_from": start, "speaker": speaker, "train": asdict(options), "seed": seed}
    save_trained(model, tokenizer, out, made, log, checkpoint_dtype(base))
    if ranks.first and card:
        more = {"speaker": speaker, "log": log, "settings": asdict(options), "seed": seed}
        device = device_name(ranks.device)
        write_model_card(
            out,
            {**card, **more, "processes": ranks.world, "device": device,
             "conversations": len(conversations)},
        )  # fmt: skip
    clear(states)
    return {
        "model": fingerprint(str(out)),
        "conversations": len(conversations),
        "sequences": len(windows),
        "targets": windows.targets,
        **last_figures(log),
    }


def last_figures(log: Sequence[Record]) -> Record:
    """Steps, the last one's losses, and the last validation's figures."""
    steps = [line for line in log if "loss" in line]
    found: Record = {"steps": len(steps), "final_loss": steps[-1]["loss"]}
    for line in log:
        found |= {f"validation_{key}": one for key, one in line.get("validation", {}).items()}
    return found


def make_windows(
    form: ChatFormat, conversations: Sequence[Record], options: Training, seed: int
) -> Windows:
    """The training sequences of conversations; what did not fit is counted aloud.

    The intent is left out of a share `intent_dropout` of them, drawn from the seed.
    """
    drawn = random.Random(f"intent dropout {seed}")
    ends = beginnings = 0

    def counted() -> Iterator[tuple[int, Rendered]]:
        nonlocal ends, beginnings
        rendered = render_all(
            form, conversations, max_length=options.max_length,
            with_intent=lambda _: drawn.random() >= options.intent_dropout,
        )  # fmt: skip
        for index, window in rendered:
            ends += window.lost_ends
            beginnings += window.lost_beginnings
            yield index, window

    windows = Windows.of(counted())
    room = f"max_length={options.max_length}"
    if ends:
        say(f"  {ends:,} turns to train on were longer than {room} and lost their end")
    if beginnings:
        say(f"  {beginnings:,} turns of a history did not fit {room} and lost their beginning")
    return windows


def shared(folder: Path, make: Callable[[], Windows], ranks: Ranks) -> Windows:
    """Sequences that one process makes; the others map its files in `folder`/tokens."""
    if ranks.world == 1:
        return make()
    if ranks.first:
        make().save(folder / "tokens")
    ranks.wait()
    return Windows.open(folder / "tokens")


def save_trained(
    model: Any, tokenizer: Any, out: Path, made: Record, log: Sequence[Record], dtype: Any
) -> None:
    """Gather the weights, let rank 0 save the checkpoint `out`, which is in `dtype`."""
    ranks = join()
    weights = None
    if ranks.world > 1:
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_model_state_dict,
        )

        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(model, options=whole)
    else:
        model.to("cpu").eval()
    if ranks.first:
        save_checkpoint(model, tokenizer, out, made, log, dtype=dtype, state_dict=weights)
    ranks.wait()


def clear(states: Path) -> None:
    """Training is done and saved; its states are not needed any more."""
    if join().first:
        shutil.rmtree(states, ignore_errors=True)
