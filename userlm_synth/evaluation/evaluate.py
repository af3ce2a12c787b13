"""`evaluate`: every model on every file of conversations, into one `evaluation.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.errors import UserError
from userlm_synth.evaluation.figures import first_turn_figures, gap, perplexity, termination
from userlm_synth.evaluation.scoring import Model, Scores, score
from userlm_synth.progress import Progress, say
from userlm_synth.records import Record, read_records, stable_hash, user_turns, write_json
from userlm_synth.user_lm.render import system_text

if TYPE_CHECKING:
    from userlm_synth.recipe import Evaluate


def sample_first_turns(
    name: str, conversations: Sequence[Record], settings: Evaluate, seed: int
) -> list[str]:
    """One sampled first turn for each intent, in batches."""
    from userlm_synth.backends import Request
    from userlm_synth.backends.hf import HFBackend

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
