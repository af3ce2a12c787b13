"""The dataset folder, exactly as it is published: Parquet, card, schema, report, checksums.

`messages` is the first column and the field's standard conversational form, so
`datasets.load_dataset(FOLDER)` and TRL's `SFTTrainer` take it as it is. Nothing is made of texts
that hold personal data or secrets, unless `push.redact` puts placeholders in; with `strict`, as
before a push, nothing is made where a licence or a model's terms are not known either.

The same input gives the same bytes: no date of today is in it, and no path of the machine.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth import __version__
from userlm_synth.errors import Problems, UserError
from userlm_synth.folders import whole_folder
from userlm_synth.hub import card, licences, rows, scan
from userlm_synth.privacy import redact
from userlm_synth.records import Record, check, parse_json, sha256_file, write_json
from userlm_synth.resources import data_folder

if TYPE_CHECKING:
    from userlm_synth.recipe import Push

SUMS = "SHA256SUMS"
REPORT = 2  # the version of report.json that a page can be made of again


@dataclass(frozen=True)
class Release:
    """All that a release is made from, beside the dialogues themselves."""

    name: str
    repo_id: str
    settings: Push
    facts: rows.Facts
    sources: list[licences.Rights]
    models: list[licences.Rights]
    recipe: Record
    report: Record | None
    languages: list[str]
    command: str | None
    counts: Counter[str] = field(default_factory=Counter)  # placeholders, by kind


def build_dataset(
    run: Path,
    out: Path,
    settings: Push,
    name: str,
    *,
    strict: bool = False,
    page: Callable[[Record], str] | None = None,
    plots: Callable[[Record, Path], list[str]] | None = None,
    repo_id: str | None = None,
    command: str | None = None,
) -> Record:
    """Make the folder of a run, a dialogues folder or a JSONL file of dialogues, all or nothing.

    `page` and `plots` draw a report (`render_page`, `write_plots`); `repo_id` is what the card's
    snippets load. Returns the number of rows by split. Raises `UserError` and `Problems`, with
    `strict` also where anything that a reader needs to know of rights is not known.
    """
    files = rows.dialogue_files(run)
    home = _home(run)
    facts = rows.look(files, settings.validation, redact=settings.redact)
    models = [
        licences.model(row, role, home, settings, ask=strict)
        for role in ("user", "assistant")
        for row in facts.counts[f"{role}_model"]
    ]
    models = [_clean(one) if settings.redact else one for one in models]
    sources = licences.sources(home, settings)
    # of few intents all may have been drawn for validation: then there is train alone
    share = settings.validation if facts.counts["split"]["train"] else 0.0
    recipe = _recipe(home)
    report, page_file = _report(run, home, facts.total, strict)
    if strict and (missing := licences.problems(settings, sources, models)):
        raise Problems(missing)
    made = Release(
        name, repo_id or f"ORG/{_slug(name)}", settings, facts, sources, models, recipe,
        report, _languages(settings, facts, home), _typed(command),
    )  # fmt: skip
    with whole_folder(out) as part:
        splits, found, counts = rows.write_splits(
            files, part / "data", share, redact=settings.redact, total=facts.total
        )
        scan.scan_value(recipe, "recipe.yaml", found)
        scan.scan_value(report or {}, "report.json", found)
        if found.counts and not settings.redact:
            raise scan.refusal(run, found)
        _publish(made, part, splits, counts, page, plots, page_file)
    return {split: facts["rows"] for split, facts in splits.items()}


def _publish(
    made: Release,
    part: Path,
    splits: dict[str, Record],
    counts: Counter[str],
    page: Callable[[Record], str] | None,
    plots: Callable[[Record, Path], list[str]] | None,
    page_file: Path | None,
) -> None:
    """Everything of the folder but the rows."""
    made.counts.update(counts)
    recipe = scan.redacted(made.recipe, made.counts)
    in_report = Counter[str]()
    report = scan.redacted(made.report, in_report) if made.report else None
    example = scan.redacted(made.facts.example, Counter())
    shutil.copyfile(data_folder("schemas") / "dialogue.schema.json", part / "dialogue.schema.json")
    if recipe:
        (part / "recipe.yaml").write_text(_yaml(recipe), "utf-8")
    drawn: list[str] = []
    if report:
        write_json(part / "report.json", report)
        if page and report.get("version") == REPORT:
            (part / "index.html").write_text(page(report), "utf-8")
            if plots:
                (part / "plots").mkdir()
                drawn = [f"plots/{one}" for one in plots(report, part / "plots")]
        elif page_file and not in_report:
            shutil.copyfile(page_file, part / "index.html")
    shown = {"recipe": recipe, "report": report, "example": example, "plots": drawn}
    (part / "README.md").write_text(card.render(made, splits, shown, part), "utf-8")
    manifest = check(_manifest(made, splits, part, recipe), "release", "manifest.json")
    write_json(part / "manifest.json", manifest)
    sums = {file: facts["sha256"] for file, facts in manifest["files"].items()}
    sums["manifest.json"] = sha256_file(part / "manifest.json")
    lines = "".join(f"{digest}  {file}\n" for file, digest in sorted(sums.items()))
    (part / SUMS).write_text(lines, "utf-8")


def _manifest(made: Release, splits: dict[str, Record], part: Path, recipe: Record) -> Record:
    """What the release holds and from what it was made."""
    files = {
        path.relative_to(part).as_posix(): {
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(part.rglob("*"))
        if path.is_file()
    }
    return {
        "name": made.name,
        "version": __version__,
        "splits": {
            split: {"rows": facts["rows"], "bytes": facts["bytes"]}
            for split, facts in splits.items()
        },
        "files": files,
        "license": card.license_name(made.settings),
        "sources": [one.as_record() for one in made.sources],
        "models": [one.as_record() for one in made.models],
        "seed": recipe.get("seed"),
        "recipe_hash": sorted(made.facts.counts["recipe_hash"]),
        "redacted": dict(sorted(made.counts.items())),
        "command": made.command,
    }


# ---- what lies beside the dialogues ------------------------------------------------------------


def _home(run: Path) -> Path | None:
    """The run folder that dialogues lie in; None where they lie alone."""
    folder = run.parent if run.is_file() else run
    if (folder / "dialogues").is_dir():
        return folder
    return folder.parent if folder.name == "dialogues" else None


def _recipe(home: Path | None) -> Record:
    """The recipe without paths of the machine: a file or folder is named by its last name."""
    recipe = licences.read_yaml(home / "recipe.yaml") if home else {}
    placed: Record = _placed(recipe)
    return placed


def _typed(command: str | None) -> str | None:
    """A shell command with last names in place of paths."""
    if command is None:
        return None
    return shlex.join(redact(str(_placed(word)))[0] for word in shlex.split(command))


def _clean(one: licences.Rights) -> licences.Rights:
    """A model's name without an address or a password in it."""
    return replace(one, name=redact(one.name)[0])


def _placed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _placed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_placed(item) for item in value]
    if isinstance(value, str) and re.match(r"(hf:|vllm:|scripted:)?[/~]", value):
        return Path(value).name
    return value


def _report(
    run: Path, home: Path | None, total: int, strict: bool
) -> tuple[Record | None, Path | None]:
    """The report of these dialogues, and the page beside it."""
    folders = [home / "report"] if home else []
    folders += [run / "report", run] if run.is_dir() else []
    for folder in folders:
        if (folder / "report.json").is_file():
            report = parse_json((folder / "report.json").read_bytes())
            sets = report.get("sets") or [{}]
            of = sets[0].get("available", total)
            if strict and of != total:
                raise UserError(
                    f"{folder / 'report.json'}: is of {of:,} dialogues, and there are {total:,}; "
                    "make it again with `userlm-synth report`"
                )
            page = folder / "index.html"
            return report, page if page.is_file() else None
    return None, None


def _languages(settings: Push, facts: rows.Facts, home: Path | None) -> list[str]:
    """Codes: given, else those of at least 1 % of the dialogues or of their conversations."""
    if settings.language:
        return list(settings.language)
    counts: Record = dict(facts.counts["language"])
    path = home / "conversations" / "card.json" if home else None
    if not counts and path and path.is_file():
        counts = parse_json(path.read_bytes())["languages"]
    enough = sum(counts.values()) / 100
    ranked = sorted(counts, key=lambda code: (-counts[code], code))
    codes = [code.split("-")[0].lower() for code in ranked if counts[code] >= enough]
    return list(dict.fromkeys(code for code in codes if re.fullmatch("[a-z]{2,3}", code)))


def _slug(name: str) -> str:
    """A name as a repository may have it."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "dialogues"


def _yaml(value: Record) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
