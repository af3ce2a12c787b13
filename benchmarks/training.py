"""One packed pass against the K+1 padded samples that everybody trains on.

    python benchmarks/training.py [--conversations 40] [--hidden 512] [--layers 4] [--seed 0]

Both ways take one pass (forward and backward) over the same conversations with the same model and
the same summed loss, in one run. Lengths follow WildChat's shape: most conversations are short, a
few are long; user turns have a median of about 20 tokens and a long tail, replies about 200.
The peer: each of the K+1 samples is a row (prompt masked, completion scored), right-padded in
random batches, logits computed everywhere and the loss masked, as trainers do by default.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from userlm_synth.training.batches import collate, pack
from userlm_synth.training.loss import token_losses
from userlm_synth.user_lm.render import CONTEXT, END, TURN_END, WORD, Rendered

HEADER = 5  # tokens that open a turn
VOCABULARY = 8000


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


def conversation(rng: random.Random) -> Rendered:
    """A conversation of random tokens, laid out and masked as a real one."""
    out = Rendered()

    def some(count: int) -> list[int]:
        return [rng.randrange(10, VOCABULARY) for _ in range(count)]

    out.add([0, *some(HEADER + 25)])
    number = 0
    for number, (user, reply) in enumerate(lengths(rng), 1):
        if len(out.ids) + user + reply + 4 * HEADER > 2048:
            break
        out.add(some(HEADER))
        out.add(some(user), WORD, number)
        out.add([1], TURN_END, number)
        out.add([*some(HEADER + reply), 1])
    out.add(some(HEADER))
    out.add([2], END, number + 1)
    return out


def k_plus_1(one: Rendered) -> list[tuple[list[int], int]]:
    """(ids, how many of the last are the completion) for each sample of a conversation."""
    samples = []
    for turn in sorted({turn for turn in one.turns if turn}):
        places = [i for i, t in enumerate(one.turns) if t == turn and one.kinds[i] != CONTEXT]
        samples.append((one.ids[: places[-1] + 1], len(places)))
    return samples


def padded(
    model: LlamaForCausalLM, samples: list[tuple[list[int], int]], batch: int
) -> tuple[float, int]:
    """Forward and backward over padded batches; returns the summed loss and the tokens computed."""
    total, tokens = 0.0, 0
    for start in range(0, len(samples), batch):
        some = samples[start : start + batch]
        width = max(len(ids) for ids, _ in some)
        ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in some])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in some])
        labels = torch.full_like(ids, -100)
        for row, (sample, own) in enumerate(some):
            labels[row, len(sample) - own : len(sample)] = torch.tensor(sample[-own:])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="sum"
        )
        loss.backward()
        total += loss.item()
        tokens += ids.numel()
    return total, tokens


def one_pass(model: LlamaForCausalLM, chats: list[Rendered]) -> tuple[float, int]:
    """The same over packed rows, one row at a time."""
    total, tokens = 0.0, 0
    for row in pack([len(one.ids) for one in chats], 2048):
        batch = collate(chats, [row], 0)
        loss = token_losses(model, batch).sum()
        loss.backward()
        total += loss.item()
        tokens += batch.ids.numel()
    return total, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    chats = [conversation(rng) for _ in range(options.conversations)]
    samples = [sample for one in chats for sample in k_plus_1(one)]
    rng.shuffle(samples)
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            intermediate_size=options.hidden * 8 // 3,
            num_attention_heads=options.hidden // 64,
            num_key_value_heads=options.hidden // 64,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    )
    ways = {
        "K+1 samples, padded": lambda: padded(model, samples, options.batch),
        "one pass, packed": lambda: one_pass(model, chats),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses, tokens = {}, {}
    for _ in range(options.repeats):  # in turns, so that noise falls on both
        for name, way in ways.items():
            model.zero_grad()
            started = time.process_time()
            losses[name], tokens[name] = way()
            seconds[name].append(time.process_time() - started)
    best = {name: min(times) for name, times in seconds.items()}
    first, second = ways
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{len(chats)} conversations, {len(samples)} samples")
    for name in ways:
        print(
            f"{name:22} {tokens[name]:9,} tokens  {best[name]:7.1f} CPU s  loss {losses[name]:.2f}"
        )
    error = abs(losses[first] - losses[second]) / losses[first]
    print(f"speed-up {best[first] / best[second]:.2f}, relative difference of the loss {error:.1e}")
    print(json.dumps({"speed_up": best[first] / best[second], "loss_error": error}))


if __name__ == "__main__":
    main()
