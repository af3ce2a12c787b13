"""The doctor: ten probes of a model, what each found, and what to set.

userlm-synth doctor openai:my-user-lm@http://localhost:8000/v1
"""

from __future__ import annotations

import asyncio
import textwrap
from collections import Counter
from dataclasses import asdict, dataclass

from userlm_synth.backends import Spec, parse_spec
from userlm_synth.errors import UserError
from userlm_synth.progress import Progress
from userlm_synth.records import Record
from userlm_synth.serving.findings import Finding, skip
from userlm_synth.serving.patients import InProcess, Patient, Role
from userlm_synth.serving.probes import PROBES
from userlm_synth.serving.server_patient import AtServer
from userlm_synth.serving.turn_probes import opens_own_turn

WIDTH = 80  # columns
SHORT = {"not applicable": "n/a"}


@dataclass(frozen=True)
class Diagnosis:
    """What the probes found, by their names, in order."""

    about: str
    role: Role
    findings: dict[str, Finding]

    @property
    def broken(self) -> bool:
        """Whether generation would go wrong."""
        return any(one.verdict == "broken" for one in self.findings.values())

    @property
    def settings(self) -> list[str]:
        """The recipe's fields to set, as overrides: `generate.server.api=completions`."""
        merged = {k: v for one in self.findings.values() for k, v in one.settings.items()}
        return [f"{key}={value}" for key, value in merged.items()]

    @property
    def summary(self) -> str:
        """One line."""
        counts = Counter(SHORT.get(f.verdict, f.verdict) for f in self.findings.values())
        order = ("broken", "warning", "ok", "n/a")
        said = ", ".join(f"{counts[one]} {one}" for one in order if counts[one])
        return f"{said}. Set {' '.join(self.settings)}" if self.settings else f"{said}."

    def as_text(self) -> str:
        """For people, in 80 columns; only the summary may be longer, to be copied whole."""
        lines = [*textwrap.wrap(self.about, WIDTH), ""]
        for number, (name, one) in enumerate(self.findings.items(), 1):
            head = f"{number:2} {name:<15} {SHORT.get(one.verdict, one.verdict):<8}"
            lines += _column(head, one.what)
            if one.mend:
                lines += _column(" " * (len(head) - 8) + "mend    ", one.mend)
        return "\n".join([*lines, "", self.summary])

    def as_record(self) -> Record:
        """For programs."""
        return {
            "about": self.about,
            "role": self.role,
            "broken": self.broken,
            "probes": {name: asdict(one) for name, one in self.findings.items()},
            "set": self.settings,
        }


def _column(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head),
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def examine(spec: str, role: Role, tokenizer: str | None, key_env: str) -> Diagnosis:
    """Run all probes, one after the other. Raises `UserError` where there is nothing to examine:
    no such model, no server, a wrong key."""
    return asyncio.run(_examine(spec, role, tokenizer, key_env))


async def _examine(spec: str, role: Role, tokenizer: str | None, key_env: str) -> Diagnosis:
    parsed = parse_spec(spec)
    about = f"{spec}, as the {role}"
    if parsed.kind == "prompted":
        # its turns are an assistant's, its leaving a word in them
        spec, role, parsed = parsed.target, "assistant", parse_spec(parsed.target)
        about = f"{spec}, as an assistant: the model that is prompted to play the user"
    if tokenizer and parsed.kind == "scripted":
        raise UserError("--tokenizer: a script has none")
    patient = await admit(spec, parsed, role, tokenizer, key_env)
    try:
        findings: dict[str, Finding] = {}
        with Progress("doctor", len(PROBES), "probes", pace=False) as progress:
            for name in PROBES:
                findings[name] = await _probe(patient, name)
                progress.step()
    finally:
        await patient.close()
    return Diagnosis(about + _how(patient, len(parsed.urls)), role, findings)


async def _probe(patient: Patient, name: str) -> Finding:
    """One probe; a model in process that opens no turn of its own can be asked nothing."""
    unusable = patient.form is None or not opens_own_turn(patient)
    if patient.kind == "process" and unusable and name not in ("template", "price"):
        return skip("not before the template is mended")
    return await PROBES[name](patient)


async def admit(
    spec: str, parsed: Spec, role: Role, tokenizer: str | None, key_env: str
) -> Patient:
    """The patient of a SPEC, looked at; `UserError` for what has to be mended before."""
    if parsed.kind == "openai":
        server = AtServer(spec, role, "server")
        try:
            await server.start(parsed, tokenizer, key_env)
        except BaseException:
            await server.close()
            raise
        return server
    process = InProcess(spec, role, "script")
    await process.start(parsed, tokenizer)
    return process


def _how(patient: Patient, servers: int) -> str:
    """How it was asked."""
    first = f" (the first of {servers} servers)" if servers > 1 else ""
    if patient.kind != "server":
        return ""
    route = "token ids" if patient.completions else "chat messages"
    source = f"; tokenizer of {patient.tokenizer}" if patient.tokenizer else ""
    return f"{first}, by {route}{source}"
