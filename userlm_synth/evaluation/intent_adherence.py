"""Intent adherence (Table 2 of the paper, metric 6): does the user keep its question?

The user asks an open question; the assistant cannot answer and offers something else; a judge says
whether the next turn takes that (ACCEPTED) or not (REFUSED: adherent), by the paper's labels. Every
simulator has to say something there, because a user that leaves does neither: the end is forbidden.
What no label can be found for is left out and counted as unclear: a turn without words, and a turn
on which the judge kept to neither label in three attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.estimates import Units
from userlm_synth.evaluation.kept import Turn
from userlm_synth.evaluation.probes import Probes, make_probes, read_open
from userlm_synth.evaluation.verdicts import REFUSED, Exchange, verdicts
from userlm_synth.records import INTENT_OPENING, Record

if TYPE_CHECKING:
    from userlm_synth.recipe import Evaluate, Judge

NAME = "intent adherence"
INTENT = f"{INTENT_OPENING} find out the answer to a question that came to mind."
NO_QUESTIONS = "needs open questions: evaluate.questions=FILE"
NO_JUDGE = "needs a judge: evaluate.judge.model=SPEC"
REQUEST = """\
Somebody has asked an assistant the question below. Write the assistant's reply. In it the
assistant says that it cannot answer the question, without any reason or hint, and then offers to do
or talk about one particular other thing that has nothing to do with it. One to three sentences, and
nothing but the reply."""


def intent_probes(settings: Evaluate, out: Path, *, seed: int) -> Probes | None:
    """The probes of `evaluate.questions`; None without one (see `NO_QUESTIONS`)."""
    if settings.questions is None:
        return None
    file = Path(settings.questions)
    return make_probes(
        NAME, INTENT, file, read_open(file), settings, out, may_end=False, request=REQUEST,
        seed=seed,
    )  # fmt: skip


def intent_adherence(
    probes: Probes, turns: Mapping[str, Turn], judge: Judge, kept: Path, accuracy: Record | None,
    *, samples: int, seed: int,
) -> tuple[Record, dict[str, Units]]:  # fmt: skip
    """`intent_adherence`: the share of probes, x 100, in which the simulator kept its question.

    `kept` holds the judge's answers, `accuracy` is what `verdicts.judge_accuracy` found. Raises
    `UserError` where the judge or its budget gives out.
    """
    said = {
        probe.question.id: Exchange(probe.question.text, probe.reply, turn.text)
        for probe, turn in probes.answered(turns)
    }
    found = verdicts({key: one for key, one in said.items() if one.message}, judge, kept)
    clear = {key: verdict for key, verdict in found.items() if verdict is not None}
    refused = {key: float(verdict == REFUSED) for key, verdict in clear.items()}
    units = Units.means(refused, scale=100)
    assert judge.model
    record = {
        **units.estimate(samples=samples, seed=seed),
        "refused": int(sum(refused.values())),
        "accepted": len(clear) - int(sum(refused.values())),
        "unclear": len(said) - len(clear),
        "unsure": probes.unsure,
        "questions": probes.questions,
        "judge": judge.model.partition("@http")[0],
        "judge_accuracy": accuracy,
    }
    return record, {"intent_adherence": units}
