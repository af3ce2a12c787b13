"""`run`: every stage that a recipe names, in order, each done once.

A stage's fingerprint hashes its settings, its input files and the stages before it. A stage whose
fingerprint stands in `manifest.json` and whose files are there is not done again, so an
interrupted run continues, and a changed recipe redoes just what depends on the change.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from userlm_synth import __version__
from userlm_synth.errors import Problems, UserError, explain_disk_full
from userlm_synth.progress import duration, say
from userlm_synth.recipe import Assistant, Evaluate, Recipe
from userlm_synth.records import (
    Record,
    file_problems,
    parse_json,
    read_records,
    sha256_file,
    stable_hash,
    write_bytes,
    write_json,
)

GENERATE_NEEDS = "needs --user, --assistant and --intents (or a recipe that names them)"
TRAINING_STAGES = ("conversations", "intents", "base", "user_lm")


@dataclass
class Stage:
    """One arrow of the flow: `folder` holds its output, `action` makes it."""

    name: str
    section: str  # of the recipe, for messages
    settings: Any
    after: tuple[str, ...]
    action: Callable[[], Record]


class Run:
    """A recipe and its folder."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self.manifest: Record = {
            "recipe": recipe.name,
            "recipe_hash": recipe.hash,
            "version": __version__,
            "stages": {},
        }

    # ---- the stages ---------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """The stages that the recipe names, in order."""
        recipe, found = self.recipe, []

        def add(name: str, section: str, after: tuple[str, ...], action: Any, **more: Any) -> None:
            part = getattr(recipe, section)
            settings = _lasting({**(asdict(part) if part else {}), **more, "seed": recipe.seed})
            found.append(Stage(name, section, settings, after, action))

        if recipe.conversations:
            source = Path(recipe.conversations.source)
            data = sha256_file(source) if source.is_file() else ""
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
            after = (*chats, "base")
            found.append(Stage("assistant_lm", "assistant", own, after, self._assistant_lm))
        if recipe.evaluate:
            after = (*chats, "base", "user_lm")
            add("evaluation", "evaluate", after, self._evaluation, **start)
        if recipe.generate:
            side = asdict(recipe.assistant) if recipe.assistant else {}
            side.pop("train", None)
            sources = (*chats, "user_lm", "assistant_lm")
            given = recipe.generate.intents
            models = [_content_of(recipe.generate.user), _content_of(side.get("model"))]
            data = [sha256_file(Path(given)) if given else "", *models]
            add("dialogues", "generate", sources, self._dialogues, side=side, data=data)
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
                model=settings.model,
                concurrency=settings.concurrency,
                key_env=settings.api_key_env,
            )
            for split in ("train", "validation", "test")
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

    # ---- doing them ---------------------------------------------------------------------------

    def execute(self, only: tuple[str, ...] | None = None) -> None:
        """Do what is not done yet (of `only`, if given)."""
        self._refuse_other_files()
        with _locked(self.out):
            self._open()
            prints: dict[str, str] = {}
            redone: list[str] = []
            for stage in self.stages():
                if only and stage.name not in only:
                    continue
                before = [prints[name] for name in stage.after if name in prints]
                own = stable_hash(stage.settings)
                prints[stage.name] = stable_hash(stage.name, own, before)
                why = self._why(stage, own, prints[stage.name], redone)
                if why is None:
                    say(f"{stage.name}: up to date")
                    continue
                say(f"{stage.name}: {why}")
                redone.append(stage.name)
                started = time.monotonic()
                self.manifest["stages"].pop(stage.name, None)
                self._save()
                summary = stage.action()
                seconds = time.monotonic() - started
                self._finish(stage, own, prints[stage.name], summary, seconds)
                say(f"  done in {duration(seconds)}")

    def _refuse_other_files(self) -> None:
        if not self.out.is_dir() or (self.out / "manifest.json").exists():
            return
        others = [p.name for p in self.out.iterdir() if not p.name.startswith(".")]
        if others:
            raise UserError(
                f"{self.out}: holds other files ({', '.join(sorted(others)[:3])}) and no "
                "manifest.json; choose an empty folder with --out"
            )

    def _open(self) -> None:
        path = self.out / "manifest.json"
        if path.exists():
            try:
                manifest = parse_json(path.read_bytes())
                name, stages = manifest["recipe"], manifest["stages"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: is not a manifest; choose another --out") from None
            if name != self.recipe.name:
                raise UserError(
                    f"{self.out}: belongs to the recipe {name!r}, not {self.recipe.name!r}; "
                    "choose another --out"
                )
            self.manifest["stages"] = stages
        import yaml

        text = yaml.safe_dump(self.recipe.as_dict(), sort_keys=False, allow_unicode=True)
        write_bytes(self.out / "recipe.yaml", [text.encode()])
        self._save()

    def _save(self) -> None:
        write_json(self.out / "manifest.json", self.manifest, "manifest")

    def _why(self, stage: Stage, own: str, fingerprint: str, redone: list[str]) -> str | None:
        """Why a stage is to be done, or None where it is done."""
        former = self.manifest["stages"].get(stage.name)
        if former is None:
            return "..."
        if former["settings"] != own:
            return f"done again, its settings ({stage.section}) changed"
        if former["fingerprint"] != fingerprint:
            causes = [name for name in stage.after if name in redone]
            return f"done again, because {' and '.join(causes) or 'what it is made from'} changed"
        missing = [name for name in former["outputs"] if not (self.out / name).exists()]
        if missing:
            return f"done again, {missing[0]} is missing"
        return None

    def _finish(
        self, stage: Stage, own: str, fingerprint: str, summary: Record, seconds: float
    ) -> None:
        folder = self.out / stage.name
        outputs = {
            file.relative_to(self.out).as_posix(): sha256_file(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and not file.name.startswith(".") and "store.sqlite" not in file.name
        }
        self.manifest["stages"][stage.name] = {
            "fingerprint": fingerprint,
            "settings": own,
            "seconds": round(seconds, 1),
            "outputs": outputs,
            "summary": summary,
        }
        self._save()


def _lasting(settings: Record) -> Record:
    """Settings without those that change nothing in the result."""
    return {
        key: _lasting(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in ("checkpoint_minutes", "concurrency")
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
        *sorted(out.glob("conversations/*.jsonl")),
        *sorted(out.glob("intents/*.jsonl")),
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
    Run(recipe, out).execute(only)
    say(f"checked against the schemas: {validate_run(out):,} records, all valid")


def training_only(recipe: Recipe) -> Recipe:
    """A recipe without the stages after the user LM."""
    return replace(recipe, assistant=None, evaluate=None, generate=None, report=None, push=None)


def _free_name(path: Path) -> Path:
    number = 1
    while (named := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return named


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    with explain_disk_full(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"{out}: is a file; name a folder with --out") from None
        lock = (out / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"{out}: another run is at work in this folder; wait for it") from None
    finally:
        lock.close()


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
