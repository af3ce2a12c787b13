"""What `training.py` compares with: the same conversations as K+1 samples, in loops of others.

A way is a function that prepares everything (data, optimizer, trainer) and returns a function
that takes one pass of optimizer steps over all conversations. The learning rate is 0: an
optimizer step does all its work and changes nothing, so every pass computes the same loss.
"""

from __future__ import annotations

import math
import random
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from userlm_synth.user_lm.render import CONTEXT, END, TURN_END, WORD, Rendered

HEADER = 5  # tokens that open a turn
MAX_LENGTH = 2048
ROWS = {"cpu": 1, "cuda": 8}  # packed rows in a micro-batch, where attention costs no mask
Sample = tuple[list[int], list[int]]  # ids, and labels with -100 where nothing is trained on


@dataclass
class Pass:
    """One pass: the loss summed over all targets, what was computed, how long it took."""

    loss: float = 0.0
    tokens: int = 0  # padding included
    steps: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0  # of the process up to here, beside the weights


Run = Callable[[int | None], Pass]  # a pass over everything, or the first few steps of one


def lengths(rng: random.Random) -> list[tuple[int, int]]:
    """(user, assistant) tokens of each exchange of one conversation."""
    turns = 1
    while rng.random() < 0.55 and turns < 12:
        turns += 1
    return [
        (
            min(600, max(2, round(math.exp(rng.gauss(math.log(20), 1.1))))),
            min(700, max(5, round(math.exp(rng.gauss(math.log(200), 0.8))))),
        )
        for _ in range(turns)
    ]


def conversation(rng: random.Random, vocabulary: int) -> Rendered:
    """A conversation of random tokens, laid out and masked as a real one."""
    out = Rendered()

    def some(count: int) -> list[int]:
        return [rng.randrange(10, vocabulary) for _ in range(count)]

    out.add([0, *some(HEADER + 25)])
    number = 0
    for number, (user, reply) in enumerate(lengths(rng), 1):
        if len(out.ids) + user + reply + 4 * HEADER > MAX_LENGTH:
            break
        out.add(some(HEADER))
        out.add(some(user), WORD, number)
        out.add([1], TURN_END, number)
        out.add([*some(HEADER + reply), 1])
    out.add(some(HEADER))
    out.add([2], END, number + 1)
    return out


def conversations(options: Namespace) -> list[Rendered]:
    """The same ones in every process."""
    rng = random.Random(options.seed)
    return [conversation(rng, options.vocabulary) for _ in range(options.conversations)]


def k_plus_1(one: Rendered) -> list[Sample]:
    """The samples of a conversation: each of the user's turns after everything before it."""
    samples = []
    for turn in sorted({turn for turn in one.turns if turn}):
        places = [i for i, t in enumerate(one.turns) if t == turn and one.kinds[i] != CONTEXT]
        end, own = places[-1] + 1, set(places)
        samples.append((one.ids[:end], [one.ids[i] if i in own else -100 for i in range(end)]))
    return samples


def one_pass_row(one: Rendered) -> Sample:
    """A whole conversation as one sample, every turn of the user's a target."""
    pairs = zip(one.ids, one.kinds, strict=True)
    return one.ids, [token if kind != CONTEXT else -100 for token, kind in pairs]


def untrained(options: Namespace, attention: str = "sdpa") -> LlamaForCausalLM:
    """The same random Llama in every process, in fp32, on the device."""
    torch.manual_seed(options.seed)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        intermediate_size=options.hidden * 8 // 3,
        num_attention_heads=max(1, options.hidden // 64),
        num_key_value_heads=max(1, options.hidden // 64),
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        initializer_range=0.06,  # sharper than 0.02: a token that sees too much shows in the loss
        attn_implementation=attention,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config).to(options.device)
    return model


def rows_a_step(options: Namespace, rows: int) -> int:
    """How many rows (batches, samples) make an optimizer step, about as long in every way."""
    share: float = options.step_conversations / options.conversations
    return max(1, round(rows * share))


def autocast(options: Namespace) -> AbstractContextManager[Any]:
    return torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16")


def clock(options: Namespace) -> tuple[float, float]:
    """(wall, CPU) seconds, once all work that was begun is done."""
    if options.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def padded(options: Namespace, model: LlamaForCausalLM, samples: list[Sample]) -> Run:
    """The loop that everybody writes: right-padded batches, logits everywhere, a masked loss."""
    size = options.batch
    batches = [samples[i : i + size] for i in range(0, len(samples), size)]
    random.Random(options.seed).shuffle(batches)
    each = rows_a_step(options, len(batches))
    steps = [batches[i : i + each] for i in range(0, len(batches), each)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def run(limit: int | None) -> Pass:
        done, losses = Pass(), []
        wall, cpu = clock(options)
        for step in steps[:limit]:
            targets = sum(
                label != -100 for batch in step for _, labels in batch for label in labels
            )
            for batch in step:
                ids, mask, labels = (part.to(options.device) for part in pad(batch))
                with autocast(options):
                    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(
                    logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum"
                )
                (loss / targets).backward()
                losses.append(loss.detach())
                done.tokens += ids.numel()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done.steps += 1
        ended = clock(options)
        done.seconds, done.cpu_seconds = ended[0] - wall, ended[1] - cpu
        done.loss = float(sum(losses))
        return done

    return run


def pad(batch: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, attention mask and labels, each [B, the longest], padded on the right."""
    width = max(len(ids) for ids, _ in batch)
    rows = [(ids, [1] * len(ids), labels) for ids, labels in batch]
    fill = (0, 0, -100)
    ids, mask, labels = (
        torch.tensor([row[i] + [fill[i]] * (width - len(row[i])) for row in rows]) for i in range(3)
    )
    return ids, mask, labels


def padded_at_random(options: Namespace, chats: list[Rendered]) -> Run:
    samples = [sample for one in chats for sample in k_plus_1(one)]
    random.Random(options.seed).shuffle(samples)
    return padded(options, untrained(options), samples)


def padded_by_length(options: Namespace, chats: list[Rendered]) -> Run:
    """Fully sorted, which pads less than grouping within shuffled chunks does."""
    samples = [sample for one in chats for sample in k_plus_1(one)]
    return padded(options, untrained(options), sorted(samples, key=lambda sample: len(sample[0])))


def trl_attention(options: Namespace) -> str:
    """Varlen flash attention where it is installed; SDPA, with a mask for each pack, elsewhere."""
    from transformers.utils import is_flash_attn_2_available

    flash = options.device == "cuda" and options.precision == "bf16" and is_flash_attn_2_available()
    return "flash_attention_2" if flash else "sdpa"


def trl(options: Namespace, chats: list[Rendered], *, one_pass: bool, packing: bool) -> Run:
    """TRL's SFTTrainer on ready labels, in the fastest exact settings found for it.

    It is given the K+1 samples, or (`one_pass`) our rows, a conversation each.

    Packed: best fit decreasing, rows no longer than the longest sample asks for, as without varlen
    attention a row costs the square of its length. Else one sample a micro-batch, which needs
    neither padding nor a mask: on a CPU that is faster. No checkpointing of activations.
    """
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    done = Pass()
    started = (0.0, 0.0)
    limit: int | None = None
    losses: list[Any] = []

    class Measured(SFTTrainer):  # type: ignore[misc]
        """Adds up what it is given and what comes out."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **more)
            losses.append(loss.detach() * more["num_items_in_batch"])
            done.tokens += inputs["input_ids"].numel()
            return loss

    class Clock(TrainerCallback):  # type: ignore[misc]
        """From the first step to the last, without what the trainer sets up before."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            nonlocal started
            started = clock(options)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == limit

        def on_train_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            ended = clock(options)
            done.seconds, done.cpu_seconds = ended[0] - started[0], ended[1] - started[1]
            done.steps, done.loss = state.global_step, float(sum(losses))

    samples = [s for one in chats for s in ([one_pass_row(one)] if one_pass else k_plus_1(one))]
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>"
    )
    data = Dataset.from_dict(
        {"input_ids": [ids for ids, _ in samples], "labels": [labels for _, labels in samples]}
    )
    attention = trl_attention(options)
    sizes = [len(ids) for ids, _ in samples]
    room = MAX_LENGTH if attention != "sdpa" else max(sizes)
    each = rows_a_step(options, -(-sum(sizes) // room) if packing else len(samples))
    at_once = min(each, ROWS[options.device]) if packing and attention != "sdpa" else 1
    config = SFTConfig(
        output_dir=options.folder,
        packing=packing,
        packing_strategy="bfd",
        max_length=room,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=max(1, round(each / at_once)),
        gradient_checkpointing=False,
        bf16=options.precision == "bf16",
        use_cpu=options.device == "cpu",
        dataloader_pin_memory=options.device == "cuda",
        optim="adamw_torch_fused",
        learning_rate=0.0,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        num_train_epochs=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
    )
    trainer = Measured(
        model=untrained(options, attention),
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[Clock()],
    )

    def run(steps: int | None) -> Pass:
        nonlocal done, limit
        done, limit = Pass(), steps
        losses.clear()
        trainer.train()
        return done

    return run
