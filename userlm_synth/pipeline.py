"""What a recipe does: its stages, what each is made from, and the calls that make them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from userlm_synth.errors import Problems, UserError
from userlm_synth.progress import say, speaks
from userlm_synth.recipe import Assistant, Conversations, Evaluate, Recipe, Simulator, lasting
from userlm_synth.records import Record, file_problems, parse_json, read_records, sha256_file
from userlm_synth.run_folder import RunFolder, Stage

GENERATE_NEEDS = "needs --user, --assistant and --intents (or a recipe that names them)"
SPLITS = ("train", "validation", "test")
TRAINING_STAGES = ("conversations", "intents", "base", "user_lm", "assistant_lm", "personas")
TOGETHER = ("base", "user_lm", "personas")  # by all processes, where there are several


class Run:
    """A recipe and its folder."""

    def __init__(self, recipe: Recipe, out: Path, command: Sequence[str] = ()) -> None:
        self.recipe, self.out, self.command = recipe, out, list(command)

    def stages(self) -> list[Stage]:
        """The stages that the recipe names, in order."""
        recipe, found = self.recipe, []

        def add(name: str, section: str, after: tuple[str, ...], action: Any, **more: Any) -> None:
            part = getattr(recipe, section)
            settings = lasting({**(asdict(part) if part else {}), **more, "seed": recipe.seed})
            found.append(Stage(name, section, settings, after, action, name in TOGETHER))

        if recipe.conversations:
            data = _files_of(recipe.conversations)
            add("conversations", "conversations", (), self._conversations, data=data)
        if recipe.intents:
            add("intents", "intents", ("conversations",), self._intents)
        chats = ("conversations", "intents")
        if recipe.base and recipe.base.scratch:
            add("base", "base", chats, self._base)
        start = {"base": _content_of(recipe.base.model if recipe.base else None)}
        if recipe.train:
            add("user_lm", "train", (*chats, "base"), self._user_lm, **start)
        if recipe.personas:
            groups = list((recipe.personas.groups or {}).items())  # whose names are no settings
            lm = (*chats, "base", "user_lm")
            add("personas", "personas", lm, self._personas, groups=groups, **start)
        if recipe.assistant and recipe.assistant.train:
            own = lasting({"train": asdict(recipe.assistant.train), **start, "seed": recipe.seed})
            after = (*chats, "base")
            found.append(Stage("assistant_lm", "assistant", own, after, self._assistant_lm, True))
        if recipe.evaluate:
            models = (*chats, "base", "user_lm")
            others = [one.model for one in (recipe.evaluate.models or {}).values()]
            made = [_content_of(spec) for spec in others]
            if not recipe.conversations:
                raise UserError(
                    "conversations: is missing; run evaluates on its test split (on a file of "
                    "yours: userlm-synth evaluate RECIPE --conversations FILE --out DIR)"
                )
            add("evaluation", "evaluate", models, self._evaluation, **start, others=made)
        if recipe.generate:
            side = asdict(recipe.assistant) if recipe.assistant else {}
            side.pop("train", None)
            sources = (*chats, "user_lm", "assistant_lm")
            held = recipe.generate
            slices = list((held.slices or {}).values())
            given = [held.intents, held.personas, held.turns_like, *(s.personas for s in slices)]
            made_from = [
                *(sha256_file(Path(file)) if file else None for file in given),
                *(_content_of(spec) for spec in (held.user, side.get("model"))),
                *(_content_of(one.user) for one in slices),
            ]
            add("dialogues", "generate", sources, self._dialogues, side=side, made_from=made_from)
        if recipe.report:
            add("report", "report", ("dialogues", *chats), self._report)
        if recipe.push:
            add("dataset", "push", ("dialogues", "report"), self._dataset)
        return found

    @property
    def chats(self) -> Path:
        """The folder of train, validation and test conversations, with intents where made."""
        return self.out / ("intents" if self.recipe.intents else "conversations")

    @property
    def base(self) -> str:
        """The base checkpoint: the one made here, or the recipe's."""
        recipe = self.recipe.base
        return recipe.model if recipe and recipe.model else str(self.out / "base")

    def _conversations(self) -> Record:
        from userlm_synth.conversations import prepare

        assert self.recipe.conversations
        return prepare(self.recipe.conversations, self.out / "conversations", self.recipe.seed)

    def _intents(self) -> Record:
        from userlm_synth.intents import make_intents

        settings = self.recipe.intents
        assert settings
        return {
            split: make_intents(
                self.out / "conversations" / f"{split}.jsonl",
                self.out / "intents" / f"{split}.jsonl",
                settings,
                cache=self.out / "intents" / ".cache",  # one bill and no answer paid for twice
                rejected=self.out / "intents" / "rejected" / f"{split}.jsonl",
            )
            for split in SPLITS
        }

    def _split(self, name: str) -> list[Record]:
        return read_records(self.chats / f"{name}.jsonl", "conversation")

    def _to_train_on(self) -> list[Record]:
        """The train split; the other processes take what the first one makes of it."""
        return self._split("train") if speaks() else []

    def _card(self, title: str) -> Record:
        """What a model card says of the run."""
        base, data = self.recipe.base, self.out / "conversations" / "card.json"
        return {
            "name": f"{self.recipe.name}: {title}",
            "base": base.model if base else None,
            "command": shlex.join(self.command or ["userlm-synth", "run", self.recipe.name]),
            "data": parse_json(data.read_bytes()) if data.is_file() else None,
        }

    def _to_validate_on(self) -> list[Record]:
        return self._held_out("validation")

    def _held_out(self, split: str) -> list[Record]:
        """A split that may be empty."""
        return self._split(split) if (self.chats / f"{split}.jsonl").stat().st_size else []

    def _base(self) -> Record:
        from userlm_synth.training.base import train_base

        base = self.recipe.base
        assert base
        assert base.scratch
        assert base.train
        return train_base(
            self._split("train"), base.scratch, base.train, self.out / "base", self.recipe.seed
        )

    def _user_lm(self) -> Record:
        from userlm_synth.training.train import train_on_turns

        assert self.recipe.train
        return train_on_turns(
            self.base, self._to_train_on(), self.recipe.train, self.out / "user_lm",
            speaker="user", seed=self.recipe.seed, validation=self._to_validate_on(),
            card=self._card("a user language model"),
        )  # fmt: skip

    def _personas(self) -> Record:
        from userlm_synth.evaluation.personas import compare_adapters, comparison_table
        from userlm_synth.recipe import groups_of, members
        from userlm_synth.training.adapters import train_adapters

        settings, out = self.recipe.personas, self.out / "personas"
        assert settings
        user_lm = str(self.out / "user_lm") if self.recipe.train else self.base
        chats = self._to_train_on()
        made = train_adapters(
            user_lm, chats, settings, out,
            seed=self.recipe.seed, validation=self._to_validate_on(),
        )  # fmt: skip
        if not speaks():
            return {}
        held_out = [one for name in SPLITS[1:] for one in self._held_out(name)]
        groups = [group for group in groups_of(settings, chats) if group.name in made]
        own = members(groups, held_out)
        found = compare_adapters(user_lm, out, own, held_out, seed=self.recipe.seed)
        say(comparison_table(found))
        return {name: {**about, **found[name]} for name, about in made.items()}

    def _assistant_lm(self) -> Record:
        from userlm_synth.training.train import train_on_turns

        assert self.recipe.assistant
        assert self.recipe.assistant.train
        return train_on_turns(
            self.base, self._to_train_on(), self.recipe.assistant.train,
            self.out / "assistant_lm", speaker="assistant", seed=self.recipe.seed,
            validation=self._to_validate_on(), card=self._card("an assistant language model"),
        )  # fmt: skip

    def _evaluation(self) -> Record:
        from userlm_synth.evaluation import evaluate

        settings = self.recipe.evaluate or Evaluate()
        made = (
            {"base": self.base, "user_lm": str(self.out / "user_lm")} if self.recipe.train else {}
        )
        simulators = {label: Simulator(model) for label, model in made.items()}
        evaluate(
            simulators | (settings.models or {}), [self.chats / "test.jsonl"],
            self.out / "evaluation", settings, seed=self.recipe.seed,
        )  # fmt: skip
        return {}

    def _dialogues(self) -> Record:
        from userlm_synth.simulate import Job, OtherSettings, generate

        settings, side = self.recipe.generate, self.recipe.assistant or Assistant()
        assert settings

        if not (settings.intents or self.recipe.conversations):
            raise UserError(
                "generate.intents: is missing (a file of intents, or a conversations section)"
            )
        job = Job(
            settings, side,
            user=settings.user or str(self.out / "user_lm"),
            assistant=side.model or str(self.out / "assistant_lm"),
            intents=Path(settings.intents) if settings.intents else self.chats / "test.jsonl",
            out=self.out / "dialogues",
            seed=self.recipe.seed, recipe_hash=self.recipe.hash,
        )  # fmt: skip
        try:
            return generate(job)
        except OtherSettings:
            former = _free_name(self.out / "dialogues.old")
            (self.out / "dialogues").rename(former)
            say(f"  the dialogues of the former models or settings are kept in {former}")
            return generate(job)

    def _report(self) -> Record:
        from userlm_synth.reporting import Inputs, write_report

        settings = self.recipe.report
        assert settings
        given = self.recipe.generate and self.recipe.generate.intents
        train = self.chats / "train.jsonl"
        inputs = Inputs(
            dialogues=self.out / "dialogues",
            reference=self.chats / "test.jsonl",
            training=train if self.recipe.train and train.stat().st_size else None,
            intents=Path(given) if given else self.chats / "test.jsonl",
        )
        title = settings.title or f"{self.recipe.name}: dialogues beside held-out conversations"
        write_report(inputs, settings, self.out / "report", title=title, seed=self.recipe.seed)
        return {}

    def _dataset(self) -> Record:
        from userlm_synth.hub import build_dataset
        from userlm_synth.reporting import render_page, write_plots

        settings, out = self.recipe.push, self.out / "dataset"
        assert settings
        return build_dataset(
            self.out, out, settings, self.recipe.name, page=render_page, plots=write_plots
        )


def _files_of(conversations: Conversations) -> list[object]:
    """The contents of local sources and id lists, so that other ones at their place are noticed."""
    given = [conversations.source, conversations.clean and conversations.clean.exclude_ids]
    paths = [Path(item) for item in given if item]
    files = [path for path in paths if path.is_file()]
    for folder in (path for path in paths if path.is_dir()):
        files += sorted(path for path in folder.rglob("*") if path.is_file())
    return [[file.name, sha256_file(file)] for file in files]


def _content_of(model: str | None) -> str | None:
    """A local checkpoint's fingerprint, so that another one at its place is noticed."""
    from userlm_synth.user_lm.adapters import model_fingerprint

    if model is None or not Path(model.removeprefix("hf:")).is_dir():
        return model
    return model_fingerprint(model.removeprefix("hf:"))


def read_dialogues(path: Path) -> tuple[list[Record], list[Record]]:
    """Accepted and rejected dialogues of a `dialogues/` folder, or of one JSONL file."""
    if path.is_file():
        return read_records(path, "dialogue"), []
    files = sorted(path.glob("part-*.jsonl"))
    rejected = path / "rejected.jsonl"
    if not files and not rejected.is_file():
        raise UserError(f"{path}: holds no part-*.jsonl; name a dialogues folder or a JSONL file")
    accepted = [record for file in files for record in read_records(file, "dialogue")]
    has_rejected = rejected.is_file() and rejected.stat().st_size
    return accepted, read_records(rejected, "rejected") if has_rejected else []


def validate_run(out: Path) -> int:
    """Check every record file of a run folder; returns how many records there are."""
    total, problems = 0, []
    files = [
        *(
            out / folder / f"{split}.jsonl"
            for folder in ("conversations", "intents")
            for split in SPLITS
        ),
        out / "conversations/card.json",
        *sorted(out.glob("dialogues/*.jsonl")),
        *(file for file in (out / "evaluation/evaluation.json", out / "report/report.json")),
        out / "manifest.json",
        out / "recipe.yaml",
    ]
    for file in files:
        if file.is_file() and file.stat().st_size:
            count, found = file_problems(file)
            total += count
            problems += found
    if problems:
        raise Problems(problems)
    return total


def trained_models(recipe: Recipe) -> dict[str, str]:
    """What a recipe trains: the stage (and folder) of each, and what to call it."""
    side = recipe.assistant
    found = {
        "user_lm": ("user LM", recipe.train),
        "assistant_lm": ("assistant LM", side and side.train),
        "personas": ("adapters", recipe.personas),
    }
    return {stage: name for stage, (name, section) in found.items() if section}


def run_recipe(
    recipe: Recipe,
    out: Path,
    only: tuple[str, ...] | None = None,
    command: Sequence[str] = (),
) -> None:
    """All stages of a recipe (or `only` some), then the check of every record written.

    `command` is what was typed, for the model card.

    Under `torchrun` or `accelerate launch` the processes train together; the first does the rest.
    """
    ranks = None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from userlm_synth.training.ranks import join

        ranks = join()
    stages = [
        stage for stage in Run(recipe, out, command).stages() if not only or stage.name in only
    ]
    RunFolder(recipe, out).execute(stages, ranks)
    if ranks:
        ranks.leave()
        if not ranks.first:
            return
    say(f"checked against the schemas: {validate_run(out):,} records, all valid")


def _free_name(path: Path) -> Path:
    number = 1
    while (named := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return named


def generate_only(
    name: str | None,
    overrides: list[str],
    out: Path,
    engine: str = "local",
    estimate: int | None = None,
    ask: Callable[[str], bool] = lambda _: False,
) -> Record:
    """`generate`: a recipe's generate section, or none, with flags on top."""
    from userlm_synth.recipe import build_recipe, load_recipe
    from userlm_synth.simulate import Job, generate

    if name:
        recipe = load_recipe(name, overrides)
    else:
        given = {item.partition("=")[0] for item in overrides}
        if not {"generate.user", "generate.intents", "assistant.model"} <= given:
            raise UserError(f"generate: {GENERATE_NEEDS}")
        recipe = build_recipe({"name": "generate"}, overrides)
    settings, side = recipe.generate, recipe.assistant
    if not (settings and settings.user and settings.intents and side and side.model):
        raise UserError(f"{name}: {GENERATE_NEEDS}")
    job = Job(
        settings, side, user=settings.user, assistant=side.model, intents=Path(settings.intents),
        out=out, seed=recipe.seed, recipe_hash=recipe.hash,
    )  # fmt: skip
    if engine == "ray":
        from userlm_synth.simulate.on_ray import generate_on_ray

        if estimate:
            raise UserError("--estimate: makes its dialogues on this machine; leave out --engine")
        return generate_on_ray(job)
    return generate(job, estimate, ask)
