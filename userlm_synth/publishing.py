"""Reports and releases of folders: what lies in them, and the stages that make the rest.

A run folder brings its own held-out people, its training conversations and its recipe; of a
dialogues folder or another dataset all that has to be said by the caller.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.recipe import Recipe, build_recipe, load_recipe

Kind = Literal["dataset", "model"]


def report_on(
    dialogues: str,
    overrides: Sequence[str],
    out: Path,
    *,
    title: str | None,
    seed: int,
    reference: str | None = None,
    training: str | None = None,
    intents: Path | None = None,
    compare: str | None = None,
) -> Path:
    """`report`: report.json, index.html and plots/ in `out`; returns the page."""
    from userlm_synth.recipe import Report
    from userlm_synth.reporting import Inputs, write_report

    run = Path(dialogues)
    people, learned = _chats_of(run)
    inputs = Inputs(
        dialogues=dialogues,
        reference=reference or people,
        training=training or learned,
        intents=intents,
        compare=compare,
    )
    given = build_recipe({"name": "report", "report": {}}, overrides, whole=False)
    settings = given.report or Report()
    beside = f" beside {_named(inputs.reference)}" if inputs.reference else ""
    other = f" and {_named(compare)}" if compare else ""
    heading = title or settings.title or f"{_named(dialogues)}{other}{beside}"
    write_report(inputs, settings, out, title=heading, seed=seed)
    return out / "index.html"


def _chats_of(run: Path) -> tuple[Path | None, Path | None]:
    """Held-out and training conversations of a run folder, with intents where they were made."""
    found = []
    for split in ("test", "train"):
        files = (run / folder / f"{split}.jsonl" for folder in ("intents", "conversations"))
        there = [file for file in files if file.is_file() and file.stat().st_size]
        found.append(there[0] if (run / "dialogues").is_dir() and there else None)
    return found[0], found[1]


def _named(place: str | Path | None) -> str:
    """A place in a title: a file's own name, a dataset's address."""
    text = str(place)
    return text if "://" in text else Path(text).resolve().name


# ---- releases ----------------------------------------------------------------------------------


def push_folder(
    folder: Path,
    repo_id: str | None,
    overrides: Sequence[str],
    *,
    public: bool,
    tag: str | None,
    to: Path | None,
    dry_run: bool,
) -> str:
    """`push`: the release of a folder made, and sent unless `to` or `dry_run`; what to print."""
    from userlm_synth.hub import outcome_text, plan_text, publish

    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    if not (repo_id or to or dry_run):
        raise UserError("push: name a REPO_ID (ORG/NAME), or a folder with --to DIR")
    kind: Kind = "model" if is_model(folder) else "dataset"
    typed = ["userlm-synth", "push", str(folder), *filter(None, [repo_id]), *overrides]
    with _place(folder, kind, to) as release:
        if release != folder:
            _make(folder, release, kind, repo_id, overrides, shlex.join(typed))
        if to:
            return f"{to}: the release; nothing was sent"
        if dry_run:
            return plan_text(release, repo_id, kind=kind, public=public, tag=tag)
        assert repo_id
        return outcome_text(publish(release, repo_id, kind=kind, public=public, tag=tag))


def is_model(folder: Path) -> bool:
    """Whether a folder is a checkpoint, rather than dialogues, a run or a release of them."""
    return (folder / "config.json").is_file() and not (folder / "dialogues").exists()


def is_release(folder: Path) -> bool:
    """Whether a folder is a dataset's release as `--to` makes it."""
    return (folder / "SHA256SUMS").is_file() and (folder / "data").is_dir()


@contextmanager
def _place(folder: Path, kind: str, to: Path | None) -> Iterator[Path]:
    """Where the release is made: `to`, the run's own dataset/, or a folder that goes again; or
    `folder`, where it is one already."""
    if to:
        yield to
    elif kind == "dataset" and is_release(folder):
        yield folder
    elif kind == "dataset" and (folder / "manifest.json").is_file():
        yield folder / "dataset"
    else:
        with tempfile.TemporaryDirectory(prefix="userlm-synth-") as place:
            yield Path(place) / "release"


def _make(
    folder: Path,
    release: Path,
    kind: str,
    repo_id: str | None,
    overrides: Sequence[str],
    command: str,
) -> None:
    from userlm_synth.hub import build_dataset, build_model
    from userlm_synth.recipe import Push
    from userlm_synth.reporting import render_page, write_plots

    recipe = _recipe_of(folder, overrides)
    settings = recipe.push or Push()
    if kind == "model":
        name = (repo_id or release.name).rpartition("/")[2]
        build_model(folder, release, settings, name)
        return
    if is_release(folder):
        raise UserError(f"{folder}: is a release already; push it as it is, without --to")
    build_dataset(
        folder, release, settings, recipe.name, strict=True,
        page=render_page, plots=write_plots, repo_id=repo_id, command=command,
    )  # fmt: skip
    if not (release / "report.json").is_file():
        say(
            f"{folder}: has no report, so the card shows no figures; to have one: userlm-synth "
            f"report {folder} --reference PEOPLE --out {folder / 'report'}"
        )


def _recipe_of(folder: Path, overrides: Sequence[str]) -> Recipe:
    """The recipe of the run that a folder is or lies in, else one of the settings alone."""
    for place in (folder, folder.parent):
        if (place / "recipe.yaml").is_file() and (place / "manifest.json").is_file():
            return load_recipe(str(place / "recipe.yaml"), list(overrides))
    name = folder.name.split(".")[0] or "dialogues"
    return build_recipe({"name": name, "push": {}}, overrides, whole=False)
