"""Probes of the text: how long it may be, and what becomes of control tokens' names in it."""

from __future__ import annotations

import re
from dataclasses import replace

from userlm_synth.records import END_TOKEN, Message
from userlm_synth.serving.findings import GOODBYE, Finding, ok, skip
from userlm_synth.serving.patients import Ask, Patient
from userlm_synth.serving.server_patient import AtServer

#: What other families close a turn with; the template of a server reads one of them as its own.
MARKS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>")
LONGEST_TRIED = 16_384  # tokens: a full prompt beyond takes a small server minutes
SIZE = re.compile(r"(?:context (?:length|size|window)|max_model_len|maximum)\D{0,40}(\d{2,})")
MARGIN = 24  # tokens


# ---- the context -------------------------------------------------------------------------------


async def context(patient: Patient) -> Finding:
    """How long may a conversation be, and what becomes of a longer one?"""
    if patient.kind == "script":
        return skip("a script reads no prompt")
    said, trained = patient.context, patient.trained_context
    limit = said or trained
    if limit is None:
        return Finding(
            "warning", "neither the server nor a config says how long it is",
            f"Set it from the model's card: {patient.section}.server.context=TOKENS.",
        )  # fmt: skip
    found = await _too_short(patient, limit) or await _too_long(patient, limit)
    if found:
        return found
    if said and trained and said > trained:
        return Finding(
            "warning", f"the server takes {said:,} tokens, config.json says {trained:,}",
            f"Start the server with --max-model-len {trained}: beyond it the text degrades.",
            {f"{patient.section}.server.context": str(trained)},
        )  # fmt: skip
    less = f" (the model's own: {trained:,})" if trained and trained != limit else ""
    end = "; a longer prompt is refused" if patient.kind == "server" else ""
    return ok(f"{limit:,} tokens{less}{end}")


async def _too_short(patient: Patient, limit: int) -> Finding | None:
    """A prompt that just fits has to be answered."""
    if patient.kind != "server" or patient.form is None or limit > LONGEST_TRIED:
        return None
    ask, size = _long(patient, limit - 2 * MARGIN)
    full = await patient.ask(ask)
    if full.answered:
        return None
    real = SIZE.search(full.text)
    name = f"{patient.section}.server.context"
    return Finding(
        "broken", f"says {limit:,} tokens, but refuses {size:,}: {full.text}",
        f"Tell generation the true length: {name}={real[1] if real else 'TOKENS'}.",
        {name: real[1]} if real else {},
    )  # fmt: skip


async def _too_long(patient: Patient, limit: int) -> Finding | None:
    """A prompt that does not fit has to be refused."""
    ask, size = _long(patient, limit + MARGIN)
    long = await patient.ask(ask)
    if long.finish == "refused" or (patient.kind == "process" and long.answered):
        return None  # in process generation itself ends a conversation in time
    settings = {f"{patient.section}.server.context": str(limit)}
    mend = f"Keep generation below it: {patient.section}.server.context={limit}."
    if not long.answered:
        return Finding(
            "broken", f"a prompt that is too long is no clean refusal: {long.text}", mend, settings
        )
    if long.prompt_tokens < size:
        cut = f"a prompt of {size:,} tokens is silently cut to {long.prompt_tokens:,}"
        return Finding("broken", cut, mend, settings)
    return Finding(
        "warning", f"a prompt of {size:,} tokens is answered, beyond the context", mend, settings
    )


def _long(patient: Patient, tokens: int) -> tuple[Ask, int]:
    """A prompt of about so many tokens, and how many it has; without a tokenizer, at least."""
    form = patient.form
    if form is None:  # a word is a token or more
        return Ask([{"role": "user", "content": " hello" * tokens}], max_tokens=1), tokens

    def asked(words: int) -> Ask:
        turns: list[Message] = [{"role": "user", "content": "a b " * words}]
        if patient.role == "user":
            turns.append({"role": "assistant", "content": "?"})
        return Ask(turns)

    def size(words: int) -> int:
        return len(form.prompt(asked(words).messages)) if form else 0

    frame, word = size(0), (size(64) - size(0)) / 64
    words = max(1, round((tokens - frame) / word))
    return replace(asked(words), max_tokens=1), size(words)


# ---- control tokens ----------------------------------------------------------------------------


async def special_tokens(patient: Patient) -> Finding:
    """Is a control token's name in a person's text read as the token?"""
    if patient.kind == "script":
        return skip("a script reads no prompt")
    if (patient.by_ids and patient.role == "user") or not isinstance(patient, AtServer):
        return _rendered_here(patient)
    marks = (END_TOKEN, *MARKS)
    found = [mark for mark in marks if await _read_as_token(patient, mark)]
    if not found:
        return ok("a control token's name in a person's text stays text")
    said = f"in a person's text {' and '.join(found)} would be read as the token itself"
    if patient.role == "assistant":
        return ok(f"{said}; generate keeps such names out (guardrails.control_tokens)")
    ids = "" if patient.form else ", or send token ids: --tokenizer PATH"
    return Finding("warning", said, f"Keep guardrails.control_tokens on{ids}.")


def _rendered_here(patient: Patient) -> Finding:
    """Whether our ids hold a token that a person has only named."""
    form = patient.form
    assert form is not None
    token = form.turn_end_id if form.end_id is None else form.end_id
    counts = set()
    for text in ("bye", f"bye {form.tokenizer.decode([token])}"):
        turns: list[Message] = [{"role": "user", "content": text}]
        if patient.role == "user":
            turns = [*GOODBYE[:2], {"role": "assistant", "content": text}]
        counts.add(form.prompt(turns).count(token))
    if len(counts) == 1:
        return ok("a control token's name in a person's text stays text")
    return Finding(
        "broken", "a control token's name in a person's text becomes the token",
        "Use a checkpoint with a tokenizer.json that the tokenizers library reads.",
    )  # fmt: skip


async def _read_as_token(patient: AtServer, mark: str) -> bool:
    """By the number of tokens: a control token is one, its name spelled otherwise is several."""
    counts = []
    for text in (f"so {mark} so", f"so {mark[:-3]}q{mark[-2:]} so"):
        turns: list[Message] = [{"role": "user", "content": text}]
        if patient.role == "user":
            turns = [*GOODBYE[:2], {"role": "assistant", "content": text}]
        answer = await patient.chat(Ask(turns, max_tokens=1))
        if not answer.prompt_tokens:
            return False
        counts.append(answer.prompt_tokens)
    return counts[1] - counts[0] >= 3
