"""A run folder and its manifest: each stage once, and again what depends on a change.

A stage's fingerprint hashes its settings, its input files and the stages before it. A stage whose
fingerprint stands in `manifest.json` and whose files are there is not done again, so an
interrupted run continues, and a changed recipe redoes just what depends on the change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from userlm_synth import __version__
from userlm_synth.errors import UserError
from userlm_synth.locks import locked
from userlm_synth.progress import duration, say
from userlm_synth.recipe import Recipe
from userlm_synth.records import (
    Record,
    make_folder,
    parse_json,
    sha256_file,
    stable_hash,
    write_bytes,
    write_json,
)


@dataclass
class Stage:
    """One arrow of the flow: `folder` holds its output, `action` makes it."""

    name: str
    section: str  # of the recipe, for messages
    settings: Any
    after: tuple[str, ...]
    action: Callable[[], Record]
    together: bool = False  # all processes do it, where there are several


class Ranks(Protocol):
    """The processes of this run; the first one decides and writes, and tells the others."""

    @property
    def first(self) -> bool: ...

    def share(self, value: str | None) -> str | None: ...

    def wait(self) -> None: ...


class Alone:
    """One process."""

    first = True

    def share(self, value: str | None) -> str | None:
        """Nobody to tell."""
        return value

    def wait(self) -> None:
        """Nobody to wait for."""


class RunFolder:
    """The folder that belongs to one recipe."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self.manifest: Record = {
            "recipe": recipe.name,
            "recipe_hash": recipe.hash,
            "version": __version__,
            "stages": {},
        }

    def execute(self, stages: list[Stage], ranks: Ranks | None = None) -> None:
        """Do what is not done yet, in order."""
        ranks = ranks or Alone()
        if not ranks.first:
            self._follow(stages, ranks)
            return
        self._refuse_other_files()
        make_folder(self.out)
        busy = f"{self.out}: another run is at work in this folder; wait for it"
        with locked(self.out, busy):
            self._open()
            prints: dict[str, str] = {}
            redone: list[str] = []
            for stage in stages:
                before = [prints[name] for name in stage.after if name in prints]
                own = stable_hash(stage.settings)
                prints[stage.name] = stable_hash(stage.name, own, before)
                why = ranks.share(self._why(stage, own, prints[stage.name], redone))
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
                ranks.wait()
                say(f"  done in {duration(seconds)}")

    @staticmethod
    def _follow(stages: list[Stage], ranks: Ranks) -> None:
        """What the other processes do: compute along in the stages that are done together."""
        for stage in stages:
            if ranks.share(None) is not None:
                if stage.together:
                    stage.action()
                ranks.wait()

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
