"""Probes of the sampler and the service: bans, seeds, probabilities, eight at once, the price."""

from __future__ import annotations

import asyncio
import time

from userlm_synth.money import load_prices
from userlm_synth.serving.findings import (
    AT_ONCE,
    GOODBYE,
    OPENING,
    Finding,
    ok,
    silent,
    skip,
    spoken,
)
from userlm_synth.serving.patients import Answer, Ask, Patient

SEEDS = range(7, 12)  # a user that leaves at once says the same by chance
GAIN = 1.5  # times as fast: less is one at a time, give or take a busy machine


async def logit_bias(patient: Patient) -> Finding:
    """Can a token be forbidden, as the first-token filter and `forbid_end` want it?"""
    if patient.kind == "script":
        return skip("a script samples nothing")
    if patient.role == "assistant":
        return skip("nothing is forbidden to an assistant")
    plain = await patient.ask(Ask(OPENING, max_tokens=4))
    if not plain.answered:
        return silent(plain)
    biased = await patient.ask(Ask(OPENING, max_tokens=4, bias=_a_word(patient, plain)))
    if biased.answered and biased.text != plain.text:
        return ok("tokens can be forced and forbidden")
    return Finding(
        "warning",
        "logit_bias is " + ("ignored" if biased.answered else f"refused ({biased.text})"),
        "Turns that break a rule are sampled again instead, which costs more calls; vLLM honours "
        "logit_bias.",
    )


def _a_word(patient: Patient, plain: Answer) -> int:
    """A token that the model would not have said anyway; any, where the tokenizer is unknown."""
    if patient.form is None:
        return 100
    said = plain.ids or patient.form.tokenizer.encode(plain.text, add_special_tokens=False)
    words: list[int] = patient.form.tokenizer.encode("zebra quick", add_special_tokens=False)
    return next((one for one in words if one not in said), words[0])


async def seeds(patient: Patient) -> Finding:
    """Does the same seed give the same text?"""
    if patient.kind == "script":
        return skip("a script says the same each time")
    twice = [spoken(patient, seed) for seed in SEEDS for _ in range(2)]
    answers = [await patient.ask(one) for one in twice]
    if not answers[0].answered:
        return silent(answers[0])
    texts = [(one.text, one.finish) for one in answers]
    if texts[::2] != texts[1::2]:
        return Finding(
            "warning", "ignored: seeds are provenance only, a run cannot be repeated word by word",
            "Nothing to set; ids, intents and seeds of a run are the same all the same.",
        )  # fmt: skip
    if len(set(texts)) == 1:
        return Finding(
            "warning", f"{len(SEEDS)} seeds gave one text: temperature or seed may be ignored",
            "Ask the server for temperature 1.0 by hand and compare a few replies.",
        )  # fmt: skip
    return ok("the same seed gives the same text again")


async def logprobs(patient: Patient) -> Finding:
    """Is the probability of leaving known?"""
    if patient.kind == "script":
        return skip("a script has no probabilities")
    if patient.role == "assistant":
        return skip("only a user's probability of leaving is recorded")
    answer = await patient.ask(Ask(GOODBYE, max_tokens=1))
    if not answer.answered:
        return silent(answer)
    if answer.end_probability is not None:
        return ok(f"probability of leaving after a goodbye: {100 * answer.end_probability:.2g} %")
    if answer.logprobs:
        return ok("given for the likeliest tokens; leaving was not among them after a goodbye")
    return Finding(
        "warning", "none: end_probabilities of dialogues stay empty",
        "Use a server that gives logprobs (vLLM does) where the probability of leaving matters.",
    )  # fmt: skip


async def concurrency(patient: Patient) -> Finding:
    """Are eight at once answered, and faster than one by one?"""
    asks = [spoken(patient, seed) for seed in range(AT_ONCE)]
    if patient.kind == "script":
        return skip("a script answers at once")
    began = time.perf_counter()
    alone = [await patient.ask(one) for one in asks]
    middle = time.perf_counter()
    together = await asyncio.gather(*map(patient.ask, asks))
    ended = time.perf_counter()
    if not alone[0].answered:
        return silent(alone[0])
    failed = [one for one in together if not one.answered]
    if failed:
        return Finding(
            "broken", f"{len(failed)} of {AT_ONCE} at once failed: {failed[0].text}",
            "Raise the server's limit, or ask for less at once: generate.concurrency=1.",
            {"generate.concurrency": "1"},
        )  # fmt: skip
    factor = (middle - began) / max(ended - middle, 1e-9)
    said = f"{AT_ONCE} at once are {factor:.1f} times as fast as one by one"
    if factor >= GAIN:
        return ok(said)
    mend = "Serve with continuous batching (vLLM), or let more run at once (--max-num-seqs)."
    if patient.kind == "process":
        mend = "Nothing to set: a larger model, or a GPU, gains more from batches."
    return Finding("warning", said, mend)


async def price(patient: Patient) -> Finding:
    """Is known what a token costs?"""
    if patient.kind != "server":
        return skip("tokens of a model in process cost nothing")
    found = load_prices(None).of(patient.spec)
    if found is None:
        return Finding(
            "warning", "unknown: costs are not counted, and a budget is refused",
            "Add the model to a price file and name it: generate.prices=FILE.yaml.",
        )  # fmt: skip
    if not found.read and not found.written:
        return ok("free: a server of one's own")
    return ok(f"${found.read:g} a million tokens read, ${found.written:g} written")
