"""What a recipe does: its stages, what each is made from, and the calls that make them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from userlm_synth.errors import Problems, UserError
from userlm_synth.progress import say
from userlm_synth.recipe import Assistant, Conversations, Evaluate, Recipe
from userlm_synth.records import Record, file_problems, read_records, sha256_file
from userlm_synth.run_folder import RunFolder, Stage

GENERATE_NEEDS = "needs --user, --assistant and --intents (or a recipe that names them)"
SPLITS = ("train", "validation", "test")
TRAINING_STAGES = ("conversations", "intents", "base", "user_lm")


class Run:
    """A recipe and its folder."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out

    def stages(self) -> list[Stage]:
        """The stages that the recipe names, in order."""
        recipe, found = self.recipe, []

        def add(name: str, section: str, after: tuple[str, ...], action: Any, **more: Any) -> None:
            part = getattr(recipe, section)
            settings = _lasting({**(asdict(part) if part else {}), **more, "seed": recipe.seed})
            found.append(Stage(name, section, settings, after, action))

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
        if recipe.assistant and recipe.assistant.train:
            own = _lasting({"train": asdict(recipe.assistant.train), **start, "seed": recipe.seed})
            lm = Stage("assistant_lm", "assistant", own, (*chats, "base"), self._assistant_lm)
            found.append(lm)
        if recipe.evaluate:
            models = (*chats, "base", "user_lm")
            add("evaluation", "evaluate", models, self._evaluation, **start)
        if recipe.generate:
            side = asdict(recipe.assistant) if recipe.assistant else {}
            side.pop("train", None)
            sources = (*chats, "user_lm", "assistant_lm")
            given = recipe.generate.intents
            made_from = [
                sha256_file(Path(given)) if given else None,
                _content_of(recipe.generate.user),
                _content_of(side.get("model")),
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

    def _train_split(self) -> list[Record]:
        return read_records(self.chats / "train.jsonl", "conversation")

    def _base(self) -> Record:
        from userlm_synth.training.base import train_base

        base = self.recipe.base
        assert base
        assert base.scratch
        assert base.train
        return train_base(
            self._train_split(), base.scratch, base.train, self.out / "base", self.recipe.seed
        )

    def _user_lm(self) -> Record:
        from userlm_synth.training.train import train_on_turns

        assert self.recipe.train
        return train_on_turns(
            self.base, self._train_split(), self.recipe.train, self.out / "user_lm",
            speaker="user", seed=self.recipe.seed,
        )  # fmt: skip

    def _assistant_lm(self) -> Record:
        from userlm_synth.training.train import train_on_turns

        assert self.recipe.assistant
        assert self.recipe.assistant.train
        return train_on_turns(
            self.base, self._train_split(), self.recipe.assistant.train,
            self.out / "assistant_lm", speaker="assistant", seed=self.recipe.seed,
        )  # fmt: skip

    def _evaluation(self) -> Record:
        from userlm_synth.evaluation import evaluate

        models = [self.base, str(self.out / "user_lm")]
        evaluate(
            models, [self.chats / "test.jsonl"], self.out / "evaluation",
            self.recipe.evaluate or Evaluate(), seed=self.recipe.seed,
        )  # fmt: skip
        return {}

    def _dialogues(self) -> Record:
        from userlm_synth.simulate import OtherSettings, generate

        settings, side = self.recipe.generate, self.recipe.assistant or Assistant()
        assert settings

        def make() -> Record:
            intents = Path(settings.intents) if settings.intents else self.chats / "test.jsonl"
            return generate(
                settings, side,
                user=settings.user or str(self.out / "user_lm"),
                assistant=side.model or str(self.out / "assistant_lm"),
                intents=intents, out=self.out / "dialogues",
                seed=self.recipe.seed, recipe_hash=self.recipe.hash,
            )  # fmt: skip

        try:
            return make()
        except OtherSettings:
            former = _free_name(self.out / "dialogues.old")
            (self.out / "dialogues").rename(former)
            say(f"  the dialogues of the former models or settings are kept in {former}")
            return make()

    def _report(self) -> Record:
        from userlm_synth.reporting import write_report

        accepted, rejected = read_dialogues(self.out / "dialogues")
        title = self.recipe.report and self.recipe.report.title
        reference = read_records(self.chats / "test.jsonl", "conversation")
        write_report(
            accepted, rejected, reference, self.out / "report",
            title=title or f"{self.recipe.name}: dialogues beside held-out conversations",
            seed=self.recipe.seed,
        )  # fmt: skip
        return {}

    def _dataset(self) -> Record:
        from userlm_synth.hub import build_dataset

        assert self.recipe.push
        return build_dataset(self.out, self.out / "dataset", self.recipe.push, self.recipe.name)


def _files_of(conversations: Conversations) -> list[object]:
    """The contents of local sources and id lists, so that other ones at their place are noticed."""
    given = [conversations.source, conversations.clean and conversations.clean.exclude_ids]
    paths = [Path(item) for item in given if item]
    files = [path for path in paths if path.is_file()]
    for folder in (path for path in paths if path.is_dir()):
        files += sorted(path for path in folder.rglob("*") if path.is_file())
    return [[file.name, sha256_file(file)] for file in files]


PASSING = (
    "api_key_env", "budget", "checkpoint_minutes", "concurrency", "price_in", "price_out",
    "workers",
)  # fmt: skip


def _lasting(settings: Record) -> Record:
    """Settings without those that change nothing in the result."""
    return {
        key: _lasting(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in PASSING
    }


def _content_of(model: str | None) -> str | None:
    """A local checkpoint's fingerprint, so that another one at its place is noticed."""
    from userlm_synth.user_lm import fingerprint

    if model is None or not Path(model.removeprefix("hf:")).is_dir():
        return model
    return fingerprint(model.removeprefix("hf:"))


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


def run_recipe(recipe: Recipe, out: Path, only: tuple[str, ...] | None = None) -> None:
    """All stages of a recipe (or `only` some), then the check of every record written."""
    stages = [stage for stage in Run(recipe, out).stages() if not only or stage.name in only]
    RunFolder(recipe, out).execute(stages)
    say(f"checked against the schemas: {validate_run(out):,} records, all valid")


def _free_name(path: Path) -> Path:
    number = 1
    while (named := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return named


def generate_only(name: str | None, overrides: list[str], out: Path) -> Record:
    """`generate`: a recipe's generate section, or none, with flags on top."""
    from userlm_synth.recipe import build_recipe, load_recipe
    from userlm_synth.simulate import generate

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
    return generate(
        settings, side, user=settings.user, assistant=side.model, intents=Path(settings.intents),
        out=out, seed=recipe.seed, recipe_hash=recipe.hash,
    )  # fmt: skip
