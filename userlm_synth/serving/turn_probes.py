"""Probes of a turn: whose it is, how the user leaves, and where it stops.

The traps: a generic template opens an *assistant* turn, a server strips the end token from its
texts, `config.json` and `generation_config.json` disagree on the stop ids.
"""

from __future__ import annotations

import asyncio
import re

from userlm_synth.records import END_TOKEN, Message
from userlm_synth.serving.findings import (
    AT_ONCE,
    GOODBYE,
    OPENING,
    QUESTION,
    Finding,
    ok,
    silent,
    skip,
    start,
)
from userlm_synth.serving.patients import Answer, Ask, Patient
from userlm_synth.serving.server_patient import AtServer

GIVE_TOKENIZER = "Give the user LM's folder or Hub id: --tokenizer PATH."
RUN_ON = re.compile(r"<\|[^|]{1,40}\|>|<(start|end)_of_turn>|</s>|^(User|Assistant|Human):", re.M)


# ---- the template ------------------------------------------------------------------------------


async def template(patient: Patient) -> Finding:
    """Whose turn does the template open?"""
    if patient.kind == "script":
        return skip("a script has no template")
    if patient.form is None:
        return await _unknown_template(patient)
    if not opens_own_turn(patient):
        return Finding(
            "broken", "opens a user turn: this is a user LM, no assistant",
            "Examine it with --role user; as the assistant use a chat model.",
        )  # fmt: skip
    if isinstance(patient, AtServer):
        return await _served_template(patient)
    return ok(f"opens {_whose(patient)} turn")


def opens_own_turn(patient: Patient) -> bool:
    """Whether the template lets an assistant speak; a user's form that does not is none."""
    form = patient.form
    if form is None or patient.role == "user":
        return True
    opening = form.opening["user"]
    return form.pieces["user", "assistant"][: len(opening)] == opening


def _whose(patient: Patient) -> str:
    return "a user" if patient.role == "user" else "an assistant"


async def _unknown_template(patient: Patient) -> Finding:
    if not isinstance(patient, AtServer) or "chat template" in patient.no_form:
        return Finding(
            "broken", patient.no_form,
            "Name a user LM with its own tokenizer, or play the user with prompted:SPEC.",
        )  # fmt: skip
    if patient.role == "assistant":
        return ok("answers chat requests")
    return Finding(
        "warning", f"whose turn it opens cannot be seen: {patient.no_form}", GIVE_TOKENIZER
    )


async def _served_template(patient: AtServer) -> Finding:
    """Our rendering beside the server's own."""
    answer = await patient.chat(Ask(_history(patient), max_tokens=1))
    if not answer.answered and not patient.completions:
        return silent(answer)
    if not answer.answered:
        return ok(f"opens {_whose(patient)} turn, by token ids: there is no chat endpoint")
    same = _renders_alike(patient, answer)
    if same:
        return ok(f"opens {_whose(patient)} turn; the server renders it as this toolkit does")
    if patient.role == "assistant":
        return ok("the server renders with a template of its own")
    settings = {
        "generate.server.api": "completions",
        "generate.server.tokenizer": str(patient.tokenizer),
    }
    if patient.completions:
        return Finding(
            "warning", "the server renders with another template than the checkpoint's",
            "Send token ids (the settings below), or serve with the checkpoint's own "
            "chat_template.jinja.", settings,
        )  # fmt: skip
    return Finding(
        "broken", "the server renders with another template than the checkpoint's, and takes no "
        "token ids",
        "Serve with the checkpoint's own template: vllm serve --chat-template chat_template.jinja",
    )  # fmt: skip


def _history(patient: Patient) -> list[Message]:
    return GOODBYE if patient.role == "user" else QUESTION


def _renders_alike(patient: AtServer, answer: Answer) -> bool:
    """By the ids, where the server tells them, or by their number: some count no beginning."""
    assert patient.form is not None
    ours = patient.form.prompt(_history(patient))
    if answer.prompt_ids:
        return list(answer.prompt_ids) == ours
    return abs(answer.prompt_tokens - len(ours)) <= 1


# ---- the end -----------------------------------------------------------------------------------


async def end_token(patient: Patient) -> Finding:
    """Can the user leave, and is that told from a turn without words?"""
    if patient.role == "assistant":
        return skip("an assistant does not leave")
    if patient.kind == "script":
        return skip(f"a script leaves where it says {END_TOKEN}")
    end = patient.form.end_id if patient.form else getattr(patient, "end_id", None)
    if end is None and patient.form:
        return Finding(
            "broken", f"the tokenizer has no {END_TOKEN}: this user can never leave",
            "Train with userlm-synth train, or serve the checkpoint with its own tokenizer.",
        )  # fmt: skip
    if end is None:
        return Finding("warning", "cannot be asked for without the tokenizer", GIVE_TOKENIZER)
    left = await patient.ask(Ask(GOODBYE, only=end))
    if not left.answered:
        return silent(left)
    if left.finish == "end" or list(left.ids or ())[:1] == [end]:
        return await _end_is_seen(patient)
    if left.text.strip().startswith(END_TOKEN):
        return ok("leaving is seen in the text")
    if left.text.strip():
        return await _end_unforced(patient)
    return await _end_is_empty(patient, left)


async def _end_is_seen(patient: Patient) -> Finding:
    chances = [
        (await patient.ask(Ask(history, max_tokens=1))).end_probability
        for history in (OPENING, GOODBYE)
    ]
    known = [f"{100 * chance:.2g} %" for chance in chances if chance is not None]
    if len(known) < 2:
        return ok("leaving is seen by its token id")
    return ok(
        f"leaving is seen by its token id; probability {known[0]} at the opening, {known[1]} after "
        "a goodbye"
    )


async def _end_is_empty(patient: Patient, left: Answer) -> Finding:
    """A stripped end token: is it at least another answer than an empty turn's?"""
    same = True
    if patient.form:
        empty = await patient.ask(Ask(GOODBYE, only=patient.form.turn_end_id))
        same = (left.text, left.finish) == (empty.text, empty.finish)
    return Finding(
        "warning",
        "leaving comes back as an empty reply" + (", as a turn without words does" if same else ""),
        "An empty reply is taken for leaving; a server that returns token ids (vLLM) tells them "
        "apart.",
    )


async def _end_unforced(patient: Patient) -> Finding:
    """Where no token can be forced: whether it comes by itself."""
    asks = [Ask(GOODBYE, temperature=1.0, seed=seed) for seed in range(2 * AT_ONCE)]
    answers = await asyncio.gather(*map(patient.ask, asks))
    ends = sum(one.finish == "end" for one in answers)
    if ends:
        return ok(f"seen by its token id, in {ends} of {len(asks)} turns after a goodbye")
    return Finding(
        "warning", f"could not be forced, and did not come in {len(asks)} turns after a goodbye",
        "Look at end_probabilities of a few dialogues (generate --num 10) before a long run.",
    )  # fmt: skip


# ---- the stop ----------------------------------------------------------------------------------


async def stop_ids(patient: Patient) -> Finding:
    """Does a turn stop where it ends?"""
    if patient.kind == "script":
        return skip("a script's turns are whole texts")
    if patient.form is None:
        return await _stops_by_itself(patient)
    form = patient.form
    answer = await patient.ask(Ask(start(patient), only=form.turn_end_id, max_tokens=4))
    if not answer.answered:
        return silent(answer)
    ended = form.tokenizer.decode([form.turn_end_id])
    if answer.finish == "length" and not answer.text.replace(ended, "").strip():
        return Finding(
            "broken", f"goes on after {ended}: a turn runs into the next one",
            "Give the server the stop ids: eos_token_id in generation_config.json = "
            f"{form.stop_ids}, then start it again.",
        )  # fmt: skip
    return _configs(patient, form.stop_ids) or ok(f"a turn stops at {ended}")


def _configs(patient: Patient, stops: list[int]) -> Finding | None:
    """What the checkpoint's files say, where one of them lacks a stop."""
    files = {"config.json": patient.config, "generation_config.json": patient.generation}
    told = {
        name: _ids(file["eos_token_id"]) for name, file in files.items() if "eos_token_id" in file
    }
    if all(set(stops) <= ids for ids in told.values()):
        return None
    said = ", ".join(f"{name} says {sorted(ids)}" for name, ids in told.items())
    if patient.role == "user":
        mend = f"generate sends {stops} with each request; for other clients write both into"
    else:
        mend = f"Write {stops} into"
    return Finding(
        "warning", f"a turn ends at {stops}, but {said}", f"{mend} eos_token_id of both."
    )


def _ids(value: object) -> set[int]:
    return set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()


async def _stops_by_itself(patient: Patient) -> Finding:
    answer = await patient.ask(Ask(start(patient), max_tokens=400))
    if not answer.answered:
        return silent(answer)
    if RUN_ON.search(answer.text):
        return Finding(
            "broken", "a turn runs on over control tokens into the next one",
            "Give the server the right stop ids (eos_token_id in generation_config.json).",
        )  # fmt: skip
    if answer.finish == "length":
        return Finding(
            "warning", "a turn did not end within 400 tokens",
            "Look at the text; if it runs on, mend the server's stop ids.",
        )  # fmt: skip
    return ok("a turn stops by itself")
