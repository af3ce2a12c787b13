"""How well a model predicts real users, and whether it leaves where they left.

Perplexity on the user's words (Table 1 of "Flipping the Dialogue": PPL = exp(-(1/N) sum log p)),
without and with the intent; the F1 of leaving (Table 2): at each user turn of a real conversation,
a model leaves when `<|endconversation|>` is its most likely first token; and the diversity of
first turns. Histories are the human ones. Intervals are 95 % bootstraps over conversations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from userlm_synth import metrics
from userlm_synth.errors import UserError
from userlm_synth.progress import Progress, say
from userlm_synth.records import END_TOKEN, Record, read_records, user_turns, write_json
from userlm_synth.training.batches import Batch, collate, pack
from userlm_synth.training.loss import hidden_at_targets, score_hidden
from userlm_synth.user_lm import (
    END,
    WORD,
    ChatFormat,
    Rendered,
    encode_texts,
    fingerprint,
    load_model,
    load_tokenizer,
    open_chat,
    render,
)
from userlm_synth.user_lm.render import system_text

if TYPE_CHECKING:
    from userlm_synth.recipe import Evaluate

MAX_LENGTH = 2048


@dataclass
class Scores:
    """Sums over each conversation's user words, shape [n]: loss in nats, tokens, bytes; and at
    each place where the user speaks or leaves, [p]: was it the end, did the model's most likely
    first token say so, and with which probability. `owner` [p] is the conversation."""

    form: str
    nats: Any
    tokens: Any
    bytes: Any
    ended: Any
    leaves: Any
    probability: Any
    owner: Any


class Model:
    """A checkpoint to be scored, and the ways in which it can be shown a conversation."""

    def __init__(self, name: str) -> None:
        import torch

        self.name = name.removeprefix("hf:")
        self.fingerprint = fingerprint(self.name)
        self.tokenizer = load_tokenizer(self.name)
        self.model = load_model(self.name)
        known = self.tokenizer.get_vocab()
        self.is_user_lm = END_TOKEN in known and bool(self.tokenizer.chat_template)
        if self.is_user_lm:
            self.chat = ChatFormat.probe(self.tokenizer)
        else:  # a base or chat checkpoint: as it would start its training
            self.chat = open_chat(self.model, self.tokenizer, "user")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device).eval()
        context = getattr(self.model.config, "max_position_embeddings", MAX_LENGTH)
        self.max_length = min(MAX_LENGTH, context)

    @property
    def forms(self) -> tuple[str, ...]:
        """Chat for a user LM; a base is shown plain text too, and its best form counts."""
        return ("chat",) if self.is_user_lm else ("chat", "lines", "transcript")

    def render(self, form: str, conversation: Record, with_intent: bool) -> list[Rendered]:
        """The windows of a conversation in one form."""
        if form == "chat":
            return render(
                self.chat, conversation, max_length=self.max_length, with_intent=with_intent
            )
        return [_as_text(self.tokenizer, form, conversation, with_intent, self.max_length)]


def _as_text(
    tokenizer: Any, form: str, conversation: Record, with_intent: bool, max_length: int
) -> Rendered:
    """Plain text: one turn a line, with `User:` and `Assistant:` before it in a transcript."""
    out = Rendered()
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    out.add([start])
    newline = encode_texts(tokenizer, ["\n"])[0]
    system = system_text(conversation)
    if with_intent and system:
        out.add(encode_texts(tokenizer, [system])[0] + newline)
    for number, message in enumerate(conversation["messages"]):
        own = message["role"] == "user"
        text = message["content"]
        if form == "transcript":
            out.add(encode_texts(tokenizer, ["User:" if own else "Assistant:"])[0])
            text = " " + text
        ids = encode_texts(tokenizer, [text])[0]
        out.add(ids, WORD * own, (number // 2 + 1) * own)
        out.add(newline)
    out.ids, out.kinds = out.ids[:max_length], out.kinds[:max_length]
    out.turns = out.turns[:max_length]
    return out


def score(
    model: Model, conversations: Sequence[Record], form: str, with_intent: bool, batch_tokens: int
) -> Scores:
    """One pass over the conversations, packed."""
    import torch

    windows, owners = [], []
    for index, one in enumerate(conversations):
        for window in model.render(form, one, with_intent):
            windows.append(window)
            owners.append(index)
    longest = max(len(window.ids) for window in windows)
    rows = pack([len(window.ids) for window in windows], longest)
    size = max(1, batch_tokens // longest)
    n = len(conversations)
    out = Scores(form, np.zeros(n), np.zeros(n), np.zeros(n), [], [], [], [])
    for index, one in enumerate(conversations):
        out.bytes[index] = sum(len(turn.encode()) for turn in user_turns(one["messages"]))
    label = f"scoring {model.fingerprint} ({form}, {'with' if with_intent else 'without'} intent)"
    with Progress(label, len(rows), "rows") as progress, torch.inference_mode():
        for begin in range(0, len(rows), size):
            some = rows[begin : begin + size]
            batch = collate(windows, some, model.tokenizer.pad_token_id or 0).to(model.device)
            _add_batch(out, model, batch, _first_of_turn(windows, some), owners)
            progress.step(len(some))
    return out


def _first_of_turn(windows: Sequence[Rendered], rows: Sequence[list[int]]) -> list[bool]:
    """For the targets of a batch in order: does it open a turn (or is it the end)?"""
    flags = []
    for row in rows:
        for index in row:
            last = 0
            for kind, turn in zip(windows[index].kinds, windows[index].turns, strict=True):
                if kind:
                    flags.append(kind in (WORD, END) and turn != last)
                    last = turn
    return flags


def _add_batch(
    out: Scores, model: Model, batch: Batch, firsts: list[bool], owners: list[int]
) -> None:
    import torch

    losses, places = score_hidden(
        model.model, hidden_at_targets(model.model, batch), batch.labels, model.chat.end_id,
        torch.tensor(firsts, device=model.device),
    )  # fmt: skip
    owner = np.array(owners)[batch.owners.cpu().numpy()]
    kinds = batch.kinds.cpu().numpy()
    words = kinds == WORD
    np.add.at(out.nats, owner[words], losses.cpu().double().numpy()[words])
    np.add.at(out.tokens, owner[words], 1)
    first = np.array(firsts)
    out.ended += (kinds[first] == END).tolist()
    out.leaves += places[0]
    out.probability += places[1]
    out.owner += owner[first].tolist()


def perplexity(scores: Scores, *, samples: int, seed: int) -> Record:
    """exp(mean loss of a user token) with its interval, and bits a byte (for other tokenizers)."""
    low, high = metrics.ratio_bootstrap(
        scores.nats, scores.tokens, samples=samples, seed=seed, transform=np.exp
    )
    return {
        "value": float(np.exp(scores.nats.sum() / scores.tokens.sum())),
        "interval": [float(low), float(high)],
        "bits_per_byte": float(scores.nats.sum() / math.log(2) / scores.bytes.sum()),
        "tokens": int(scores.tokens.sum()),
        "n": len(scores.nats),
        "form": scores.form,
    }


def gap(worse: Scores, better: Scores, *, samples: int, seed: int) -> Record:
    """The ratio of two perplexities on the same conversations, resampled in pairs."""
    rng = np.random.default_rng(seed)
    n = len(worse.nats)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=samples)
    logs = (drawn @ worse.nats) / (drawn @ worse.tokens) - (drawn @ better.nats) / (
        drawn @ better.tokens
    )
    low, high = np.exp(np.percentile(logs, [2.5, 97.5]))
    ratio = np.exp(worse.nats.sum() / worse.tokens.sum() - better.nats.sum() / better.tokens.sum())
    outside = not low <= 1.0 <= high
    return {"ratio": float(ratio), "interval": [float(low), float(high)], "outside": outside}


def termination(scores: Scores, *, samples: int, seed: int) -> Record:
    """Precision, recall and F1 (x100) of leaving, over all places where a user spoke or left."""
    ended, leaves = np.array(scores.ended), np.array(scores.leaves)
    chance, owner = np.array(scores.probability), np.array(scores.owner)
    n = len(scores.nats)
    hits = np.bincount(owner, ended & leaves, n)
    calls = np.bincount(owner, leaves, n)
    ends = np.bincount(owner, ended, n)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=samples)
    both = drawn @ (calls + ends)
    f1s = 200 * (drawn @ hits) / np.maximum(both, 1)
    low, high = np.percentile(f1s, [2.5, 97.5])
    return {
        **metrics.binary_f1(leaves.tolist(), ended.tolist()),
        "interval": [float(low), float(high)],
        "n": len(ended),
        "ends": int(ended.sum()),
        "mean_probability_at_end": float(chance[ended].mean()) if ended.any() else 0.0,
        "mean_probability_elsewhere": float(chance[~ended].mean()) if (~ended).any() else 0.0,
    }


def first_turn_figures(turns: Sequence[str], intents: Sequence[str], seed: int) -> Record:
    """Diversity and overlap with the intent of first turns (Table 2, metrics 1 and 2)."""
    low, high = metrics.diversity_interval(turns, seed=seed)
    overlaps = [
        metrics.intent_overlap(metrics.words(turn), metrics.words(intent))
        for turn, intent in zip(turns, intents, strict=True)
    ]
    return {
        "diversity": {
            "value": metrics.first_turn_diversity(turns, seed=seed),
            "interval": [float(low), float(high)],
            "n": len(turns),
        },
        "intent_overlap": {
            key: sum(one[key] for one in overlaps) / len(overlaps) for key in overlaps[0]
        },
    }


def sample_first_turns(
    name: str, conversations: Sequence[Record], settings: Evaluate, seed: int
) -> list[str]:
    """One sampled first turn for each intent, in batches."""
    from userlm_synth.backends import Request
    from userlm_synth.backends.hf import HFBackend
    from userlm_synth.records import stable_hash

    backend = HFBackend(name, speaker="user")
    requests = [
        Request(
            prompt_ids=[
                *backend.form.prompt([{"role": "system", "content": str(system_text(one))}]),
                *backend.form.lead,
            ],
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=128,
            seed=int(stable_hash(seed, "first turn", one["id"])[:12], 16),
            stop_ids=backend.form.stop_ids,
            banned=[backend.form.end_id] if backend.form.end_id is not None else [],
            banned_first=[backend.form.turn_end_id],
        )
        for one in conversations
    ]
    turns: list[str] = []
    with Progress("first turns", len(requests), "turns") as progress:
        for begin in range(0, len(requests), 64):
            some = backend.run(requests[begin : begin + 64])
            turns += [result.text.strip() for result in some]
            progress.step(len(some))
    return turns


def evaluate(
    models: Sequence[str],
    files: Sequence[Path],
    out: Path,
    settings: Evaluate,
    *,
    seed: int = 0,
) -> Record:
    """Score every model on every file of conversations; writes and returns `evaluation.json`."""
    results: list[Record] = []
    human: list[Record] = []
    for file in files:
        conversations = read_records(file, "conversation")[: settings.max_conversations]
        best: dict[tuple[str, bool], Scores] = {}
        for name in models:
            result, kept = _evaluate_one(name, conversations, settings, seed)
            results.append({**result, "conversations": file.name})
            best |= {(name, intent): scores for intent, scores in kept.items()}
        _add_gaps(results[-len(models) :], models, best, settings, seed)
        known = [one for one in conversations if one["intent"]]
        if len(known) >= 2 and settings.first_turns:
            known = known[: settings.first_turns]
            turns = [user_turns(one["messages"])[0] for one in known]
            figures = first_turn_figures(turns, [one["intent"] for one in known], seed)
            human.append({"conversations": file.name, **figures})
    evaluation = {"seed": seed, "results": results, "human": human}
    write_json(out / "evaluation.json", evaluation, "evaluation")
    return evaluation


def _evaluate_one(
    name: str, conversations: Sequence[Record], settings: Evaluate, seed: int
) -> tuple[Record, dict[bool, Scores]]:
    kind = name.partition(":")[0]
    if kind in ("openai", "scripted", "prompted", "vllm"):
        raise UserError(f"{name}: only models in process (hf:PATH_OR_ID) can be scored for now")
    model = Model(name)
    options = {"samples": settings.bootstrap, "seed": seed}
    known = [one for one in conversations if one["intent"]]
    perplexities: Record = {}
    others: list[Record] = []
    kept: dict[bool, Scores] = {}
    for with_intent in (False, True):
        if with_intent and len(known) < len(conversations):
            lack = len(conversations) - len(known)
            say(f"  {lack} conversations have no intent, so none is scored with one")
            continue
        tried = [
            score(model, conversations, form, with_intent, settings.batch_tokens)
            for form in model.forms
        ]
        tried.sort(key=lambda scores: scores.nats.sum() / scores.tokens.sum())
        kept[with_intent] = tried[0]
        label = "with_intent" if with_intent else "without_intent"
        perplexities[label] = perplexity(tried[0], **options)
        others += [{"intent": with_intent, **perplexity(one, **options)} for one in tried[1:]]
    result: Record = {
        "model": name,
        "fingerprint": model.fingerprint,
        "n": len(conversations),
        "perplexity": perplexities,
        "other_forms": others,
        "gaps": {},
        "termination": None,
        "first_turns": None,
    }
    if model.is_user_lm and model.chat.end_id is not None:
        result["termination"] = termination(kept[True in kept], **options)
        if len(known) >= 2 and settings.first_turns:
            known = known[: settings.first_turns]
            turns = sample_first_turns(model.name, known, settings, seed)
            result["first_turns"] = first_turn_figures(
                turns, [one["intent"] for one in known], seed
            )
    return result, kept


def _add_gaps(
    results: list[Record],
    models: Sequence[str],
    best: dict[tuple[str, bool], Scores],
    settings: Evaluate,
    seed: int,
) -> None:
    """Each model against itself with the intent, and the base models against the user LMs."""
    options = {"samples": settings.bootstrap, "seed": seed}
    for result in results:
        name = result["model"]
        own = {intent: best.get((name, intent)) for intent in (False, True)}
        if (without := own[False]) and (with_intent := own[True]):
            result["gaps"]["without / with intent"] = gap(without, with_intent, **options)
        for other in models:
            for intent in (False, True):
                mine, theirs = own[intent], best.get((other, intent))
                if other != name and mine and theirs:
                    label = f"{other} / this, {'with' if intent else 'without'} intent"
                    result["gaps"][label] = gap(theirs, mine, **options)
