"""`evaluate`: user simulators beside people on held-out conversations (Tables 1, 2 and 4).

Three passes: every model in process reads the conversations, every simulator is asked for turns,
and then all rows of a table are measured on the same conversations. What took work is kept in the
folder as it comes, so that the same command goes on where a killed one was: `scores/` (losses),
`turns.jsonl` (sampled turns), `unsure.jsonl`, `verdicts.jsonl` and `detector.jsonl` (answers).
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth import metrics
from userlm_synth.errors import UserError
from userlm_synth.evaluation import intent_adherence as intents
from userlm_synth.evaluation import role_adherence as roles
from userlm_synth.evaluation.decomposition import (
    decomposition_figures,
    decomposition_places,
    human_turns,
    sampled_turns,
)
from userlm_synth.evaluation.first_turns import (
    first_turn_figures,
    first_turn_places,
    human_first_turns,
    sampled_first_turns,
)
from userlm_synth.evaluation.kept import Turn
from userlm_synth.evaluation.leaving import LEAVING, greedy_leaving, leaving_places, scored_leaving
from userlm_synth.evaluation.naturalness import naturalness_of
from userlm_synth.evaluation.page import render_page
from userlm_synth.evaluation.perplexity import gap, perplexity, word_units
from userlm_synth.evaluation.prompted import open_model, why_not_scored
from userlm_synth.evaluation.rows import HUMAN, NO_INTENT, Held, Row
from userlm_synth.evaluation.sampling import Place, sample_groups
from userlm_synth.evaluation.scoring import scored_forms
from userlm_synth.evaluation.simulators import NotAUser, SampledModel, open_simulator
from userlm_synth.evaluation.tables import latex_tables, markdown_tables
from userlm_synth.evaluation.termination import NO_END_TOKEN
from userlm_synth.evaluation.verdicts import judge_accuracy
from userlm_synth.locks import locked
from userlm_synth.progress import say
from userlm_synth.recipe import lasting
from userlm_synth.records import Record, make_folder, write_bytes, write_json

if TYPE_CHECKING:
    from userlm_synth.estimates import Units
    from userlm_synth.evaluation.scores import Scores
    from userlm_synth.recipe import Evaluate, Simulator

SAMPLED = ("first_turn_diversity", "intent_decomposition", "naturalness", *LEAVING)
VERSION = 2
NATURAL = {
    "naturalness": "mean probability `written by a person` x 100; the classifier: TF-IDF of "
    "letters and words, logistic regression, people against `contrast`, each text judged by models "
    "that saw neither its conversation nor an equal text; it is no figure of Pangram's",
    "naturalness tokens": "words and single punctuation marks; long texts have 50 to 200 of them",
}


def evaluate(
    simulators: Mapping[str, Simulator],
    files: Sequence[Path],
    out: Path,
    settings: Evaluate,
    *,
    seed: int = 0,
) -> Record:
    """Every simulator, by its label in the tables, on every file; people are the last row of each.

    Writes `evaluation.json`, `units.jsonl` (what figures are made from, for `compare`),
    `tables.md`, `tables.tex` and `index.html` to `out`, and returns what the first one holds.
    Raises `UserError` for what a person has to mend; what is done by then is kept.
    """
    if HUMAN in simulators:
        raise UserError(f"evaluate.models.{HUMAN}: that is what people are called; rename it")
    names = [file.name for file in files]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two files are called {', '.join(sorted(twice))}; rename one")
    make_folder(out)
    with locked(out, f"{out}: another run is at work in this folder; wait for it"):
        held = [Held.read(file, settings, seed) for file in files]
        run = _Run(simulators, held, out, settings, seed)
        for label in simulators:
            run.score(label)
        run.ask()
        run.measure()
        return run.write()


class _Run:
    def __init__(
        self,
        simulators: Mapping[str, Simulator],
        held: Sequence[Held],
        out: Path,
        settings: Evaluate,
        seed: int,
    ) -> None:
        self.simulators, self.held, self.out = simulators, held, out
        self.settings, self.seed = settings, seed
        self.options = {"samples": settings.bootstrap, "seed": seed}
        for one in held:
            for label, simulator in simulators.items():
                kind = "prompted" if simulator.model.startswith("prompted:") else "server"
                n = len(one.conversations)
                one.rows[label] = Row.new(label, simulator.model, kind, one.path, n)
            one.rows[HUMAN] = Row.new(HUMAN, HUMAN, HUMAN, one.path, len(one.conversations))

    def rows(self, label: str) -> list[tuple[Held, Row]]:
        """The rows of a simulator, one a file."""
        return [(one, one.rows[label]) for one in self.held]

    # ---- what people wrote, as a model foresees it ---------------------------------------------

    def score(self, label: str) -> None:
        """Perplexity, and leaving where the model has an end token."""
        simulator = self.simulators[label]
        if why := why_not_scored(simulator.model):
            for _, row in self.rows(label):
                row.lack(why, "perplexity")
            return
        model = open_model(simulator.model, simulator.system)
        for one, row in self.rows(label):
            row.record |= {"kind": model.kind, "fingerprint": model.fingerprint}
            row.scores = scored_forms(
                model, one.conversations, self.settings.batch_tokens, keep=self.out / "scores"
            )
            for shown, scores in row.scores.items():
                self._add_perplexity(row, shown, scores)
            found, units = scored_leaving(one.left, row.scores, **self.options)
            row.add("termination", found, units)
        del model
        gc.collect()  # the next one needs the memory

    def _add_perplexity(self, row: Row, shown: bool, scores: Sequence[Scores]) -> None:
        best, *others = scores
        found, units = perplexity(best, with_intent=shown, **self.options)
        row.record["perplexity"]["with_intent" if shown else "without_intent"] = found
        row.units |= units
        for other in others:
            also, _ = perplexity(other, with_intent=shown, **self.options)
            del also["per_turn"]
            row.record["other_forms"].append({"intent": shown, **also})

    # ---- what simulators say -------------------------------------------------------------------

    def ask(self) -> None:
        """Sample turns of every simulator that can take the user's place."""
        self.role = roles.role_probes(self.settings, self.out, seed=self.seed)
        self.intent = intents.intent_probes(self.settings, self.out, seed=self.seed)
        self.accuracy = None
        if self.intent and self.settings.judge.model:
            judge, kept = self.settings.judge, self.out / "verdicts.jsonl"
            self.accuracy = judge_accuracy(judge, kept, **self.options)
        for label, simulator in self.simulators.items():
            if not self._asks(label):
                for one, row in self.rows(label):
                    self._add_spoken(one, row, {})
                self._add_probed(label, {})
                continue
            try:
                model = open_simulator(label, simulator, self.settings)
            except NotAUser as error:
                why = f"cannot take the user's turns: {error}"
                for _, row in self.rows(label):
                    row.lack(why, *SAMPLED, "role_adherence", "intent_adherence")
                continue
            self._ask(model)
            model.opened = None
            gc.collect()

    def _asks(self, label: str) -> bool:
        """Whether any turn of this simulator is wanted: else it is not opened."""
        judged = self.intent and self.settings.judge.model
        return bool(self.role or judged) or any(
            one.opened or one.spoken or (one.left and row.record["termination"] is None)
            for one, row in self.rows(label)
        )

    def _ask(self, model: SampledModel) -> None:
        """All that one simulator is asked, at once: it is started once."""
        groups: dict[str, list[Place]] = {}
        greedy = {}
        for one, row in self.rows(model.label):
            if row.record["kind"] == "server":
                row.record["fingerprint"] = model.open().name
            greedy[one.path.name] = row.record["termination"] is None and _may_leave(model, row)
            groups[one.path.name] = [
                *first_turn_places(one.opened),
                *decomposition_places(one.spoken),
                *(leaving_places(one.left) if greedy[one.path.name] else ()),
            ]
        judged = self.intent if self.settings.judge.model else None
        probes = {"role_adherence": self.role, "intent_adherence": judged}
        groups |= {name: some.places() for name, some in probes.items() if some}
        turns = sample_groups(model, groups, self.out / "turns.jsonl", seed=self.seed)
        for one, row in self.rows(model.label):
            said = turns[one.path.name]
            if one.opened:
                row.texts = sampled_first_turns(one.opened, said)
            self._add_spoken(one, row, sampled_turns(one.spoken, said))
            if greedy[one.path.name]:
                row.record["not_measured"].pop("termination", None)
                row.add("termination", *greedy_leaving(one.left, said, row.scores, **self.options))
        self._add_probed(model.label, turns)

    def _add_probed(self, label: str, turns: Mapping[str, Mapping[str, Turn]]) -> None:
        """What does not depend on the conversations: the same in the rows of all files."""
        role: tuple[Record | str, dict[str, Units]] = (roles.NO_QUESTIONS, {})
        if self.role:
            role = roles.role_adherence(self.role, turns["role_adherence"], **self.options)
        intent: tuple[Record | str, dict[str, Units]] = (
            intents.NO_JUDGE if self.intent else intents.NO_QUESTIONS, {}
        )  # fmt: skip
        if self.intent and self.settings.judge.model:
            intent = intents.intent_adherence(
                self.intent, turns["intent_adherence"], self.settings.judge,
                self.out / "verdicts.jsonl", self.accuracy, **self.options,
            )  # fmt: skip
        for _, row in self.rows(label):
            row.add("role_adherence", *role)
            row.add("intent_adherence", *intent)

    def _add_spoken(self, one: Held, row: Row, texts: Mapping[str, Sequence[str]]) -> None:
        if not one.spoken:
            none = NO_INTENT if not one.opened else "evaluate.decomposition is 0"
            row.lack(none, "intent_decomposition")
            return
        row.add("intent_decomposition", *decomposition_figures(one.spoken, texts, **self.options))

    # ---- all rows together -----------------------------------------------------------------------

    def measure(self) -> None:
        """What rows are measured in together, and people's figures."""
        for one in self.held:
            people = one.rows[HUMAN]
            people.texts = human_first_turns(one.opened)
            self._add_spoken(one, people, human_turns(one.spoken))
            for row in one.rows.values():
                self._add_first_turns(one, row)
            self._add_naturalness(one)
            self._add_gaps(one)

    def _add_first_turns(self, one: Held, row: Row) -> None:
        if row.texts:
            found, units = first_turn_figures(one.opened, row.texts, **self.options)
            row.record |= found
            row.units |= units
        if row.record["first_turn_diversity"] is None:
            why = NO_INTENT if not one.opened else "needs two first turns"
            if self.settings.first_turns == 0:
                why = "evaluate.first_turns is 0"
            row.record["not_measured"].setdefault("first_turn_diversity", why)

    def _add_naturalness(self, one: Held) -> None:
        settings = self.settings.naturalness
        if settings is None:
            for row in one.rows.values():
                row.lack("evaluate.naturalness is null", "naturalness")
            return
        texts = {label: row.texts for label, row in one.rows.items() if row.texts}
        kinds = {label: row.record["kind"] for label, row in one.rows.items()}
        found = naturalness_of(
            texts, kinds, settings, limit=self.settings.first_turns, kept=self.out, **self.options
        )
        for label, row in one.rows.items():
            if label in found:
                row.add("naturalness", *found[label])
            else:
                row.record["not_measured"].setdefault("naturalness", NO_INTENT)

    def _add_gaps(self, one: Held) -> None:
        """Each model against itself without the intent, and against the others."""
        words = {
            (label, shown): word_units(scores[0])
            for label, row in one.rows.items()
            for shown, scores in row.scores.items()
        }
        for label, row in one.rows.items():
            gaps = row.record["gaps"]
            if (label, True) in words:
                gaps["without / with intent"] = gap(
                    words[label, False], words[label, True], **self.options
                )
            for (other, shown), theirs in words.items():
                if other != label and (label, shown) in words:
                    name = f"{other} / this, {'with' if shown else 'without'} intent"
                    gaps[name] = gap(theirs, words[label, shown], **self.options)

    # ---- the end ---------------------------------------------------------------------------------

    def write(self) -> Record:
        """All files of the evaluation; the record comes last."""
        rows = [row for one in self.held for row in one.rows.values()]
        settings = lasting(asdict(self.settings))
        del settings["models"]
        settings["models"] = {
            label: {key: x for key, x in asdict(one).items() if x is not None}
            for label, one in self.simulators.items()
        }
        evaluation = {
            "version": VERSION,
            "seed": self.seed,
            "definitions": {**metrics.definitions(), **NATURAL},
            "settings": settings,
            "conversations": [one.about() for one in self.held],
            "results": [row.record for row in rows],
        }
        write_bytes(self.out / "units.jsonl", (line for row in rows for line in row.lines()))
        write_bytes(self.out / "tables.md", [markdown_tables(evaluation).encode()])
        write_bytes(self.out / "tables.tex", [latex_tables(evaluation).encode()])
        write_bytes(self.out / "index.html", [render_page(evaluation).encode()])
        write_json(self.out / "evaluation.json", evaluation, "evaluation")
        say(f"  tables.md, tables.tex and index.html are in {self.out}")
        return evaluation


def _may_leave(model: SampledModel, row: Row) -> bool:
    """Whether leaving can be seen in what it writes: it is prompted to say so, or a user LM on
    a server. A checkpoint here whose end token is not there was scored already."""
    if row.record["kind"] in ("prompted", "server"):
        form = model.open().form
        if row.record["kind"] == "prompted" or form is None or form.end_id is not None:
            return True
        row.lack(NO_END_TOKEN, "termination")
    return False
