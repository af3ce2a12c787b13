"""A user LM to publish: its folder as it is, and a card with figures, uses and the base's terms.

Training's own card stays; what is added is what a stranger needs: evaluation figures that the Hub
reads (`model-index`), what the model is for and what it is not for, and the terms that its base
hands on. Weights are published as safetensors alone.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth import privacy
from userlm_synth.errors import Problems, UserError
from userlm_synth.folders import whole_folder
from userlm_synth.hub import card, licences, scan
from userlm_synth.pages.markdown import front_matter, yaml_of
from userlm_synth.progress import say
from userlm_synth.records import Record, parse_json, sha256_file
from userlm_synth.user_lm.loading import fingerprint

if TYPE_CHECKING:
    from userlm_synth.recipe import Push

TEMPLATE = Path(__file__).with_name("model_sections.md.j2")
#: Files that can run code where they are loaded.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".h5", ".py")
TOO_LARGE_TO_COPY = (".safetensors",)
#: Where a figure stands in a row of evaluation.json, and what the Hub and people call it.
METRICS = (
    ("perplexity.with_intent", "perplexity", "Perplexity with intent"),
    ("perplexity.without_intent", "perplexity_without_intent", "Perplexity without intent"),
    ("first_turn_diversity", "first_turn_diversity", "First-turn diversity"),
    ("intent_decomposition.of_turn", "intent_decomposition", "Intent decomposition"),
    ("termination.f1", "termination_f1", "Dialogue termination (F1)"),
    ("naturalness", "naturalness", "Naturalness"),
    ("role_adherence", "role_adherence", "Role adherence"),
    ("intent_adherence", "intent_adherence", "Intent adherence"),
)


def build_model(folder: Path, out: Path, settings: Push, repo_name: str) -> Record:
    """Make the folder of a user LM under the name that its repository is to have.

    Returns `{files, metrics, license}`. Raises `UserError` where the folder is no checkpoint in
    safetensors, holds secrets, or where licence and name do not go together.
    """
    files = _files(folder)
    home = folder.parent
    recipe = licences.read_yaml(home / "recipe.yaml")
    made_here = folder.name in ("user_lm", "assistant_lm", "base") and bool(recipe)
    rights = licences.of_folder(folder, "base", None, recipe if made_here else None)
    license = _license(folder, rights, settings)
    if problem := licences.naming_problem(rights, repo_name):
        raise UserError(problem)
    results = list(_results(folder))
    text = _card(folder, rights, license, settings, repo_name, results)
    text = _clean(folder, text, settings)
    with whole_folder(out) as part:
        for file in files:
            _place(file, part / file.name)
        (part / "README.md").write_text(text, "utf-8")
        if rights.notice:
            (part / "NOTICE").write_text(f"{rights.notice}\n", "utf-8")
        sums = {path.name: sha256_file(path) for path in sorted(part.iterdir())}
        lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
        (part / "SHA256SUMS").write_text(lines, "utf-8")
    metrics = sum(len(result["metrics"]) for result in results)
    return {"files": len(sums) + 1, "metrics": metrics, "license": license["license"]}


def _files(folder: Path) -> list[Path]:
    """What is published beside the card: the folder's own files, none that can run code."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: has no config.json; name a user LM's folder")
    if not (folder / "README.md").is_file():
        raise UserError(f"{folder}: has no README.md; `userlm-synth train` writes a model card")
    every = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    left_out = [path.name for path in every if path.suffix in PICKLES]
    if left_out:
        say(f"  {folder}: left out, as they can run code: {', '.join(left_out)}")
    ours = ("README.md", "NOTICE", "SHA256SUMS")
    kept = [path for path in every if path.suffix not in PICKLES and path.name not in ours]
    if not any(path.suffix == ".safetensors" for path in kept):
        raise UserError(
            f"{folder}: has no weights as safetensors, and no others are published; save it with "
            "transformers' save_pretrained"
        )
    return kept


def _place(source: Path, target: Path) -> None:
    """A copy; of weights a second name, where the disk can give one."""
    if source.suffix in TOO_LARGE_TO_COPY:
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(source, target)
    else:
        shutil.copyfile(source, target)


# ---- licence -----------------------------------------------------------------------------------


def _license(folder: Path, rights: licences.Rights, settings: Push) -> Record:
    """`license`, and of `other` its name and link, as front matter."""
    own = rights.license if licences.is_identifier(rights.license) else None
    if settings.license and own and rights.notice and settings.license not in (own, "other"):
        raise UserError(
            f"push.license: is {settings.license}, and the base of {folder.name} "
            f"({rights.base or own}) hands on its own licence; leave push.license out ({own})"
        )
    found = settings.license or own
    if not found:
        said = f" (its base is {rights.base})" if rights.base else ""
        raise UserError(
            f"{folder}: the licence of this model is not known{said}; give it, as "
            "push.license=apache-2.0"
        )
    if found != "other":
        return {"license": found}
    if not settings.license_name:
        raise UserError("push.license_name: is missing; of `other` give push.license_link too")
    named = {"license_name": settings.license_name, "license_link": settings.license_link}
    return {"license": "other", **{key: value for key, value in named.items() if value}}


# ---- evaluation --------------------------------------------------------------------------------


def _results(folder: Path) -> Iterator[Record]:
    """Of each conversations file: its name and size, and the figures of exactly this model."""
    for place in (folder / "evaluation.json", folder.parent / "evaluation" / "evaluation.json"):
        if place.is_file():
            evaluation = parse_json(place.read_bytes())
            break
    else:
        return
    own = fingerprint(str(folder))
    sizes = {one["file"]: one for one in evaluation.get("conversations", [])}
    for row in evaluation.get("results", []):
        if row["fingerprint"] == own:
            metrics = [
                {"type": kind, "name": name, **one}
                for key, kind, name in METRICS
                if (one := _estimate(row, key))
            ]
            if metrics:
                file = Path(row["conversations"]).name
                about = sizes.get(row["conversations"], {})
                yield {"file": file, "n": about.get("n", row["n"]), "metrics": metrics}


def _estimate(row: Record, key: str) -> Record | None:
    """`{value, low, high, n}` of a figure; None where it was not measured."""
    found: Any = row
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if not isinstance(found, dict) or found.get("value") is None:
        return None
    low, high = found["interval"]
    return {"value": round(found["value"], 6), "low": low, "high": high, "n": found["n"]}


# ---- the card ----------------------------------------------------------------------------------


def _card(
    folder: Path,
    rights: licences.Rights,
    license: Record,
    settings: Push,
    name: str,
    results: list[Record],
) -> str:
    """Training's card with what a stranger needs put in before its data."""
    readme = folder / "README.md"
    text = readme.read_text("utf-8-sig").replace("\r\n", "\n")
    body = re.sub(r"\A---\s*\n.*?\n---\s*\n", "", text, count=1, flags=re.DOTALL).strip()
    front = {**front_matter(readme), **license}
    front.setdefault("library_name", "transformers")
    front.setdefault("pipeline_tag", "text-generation")
    front["tags"] = list(dict.fromkeys([*front.get("tags", []), "userlm_synth"]))
    if settings.language:
        front["language"] = list(settings.language)
    if results:
        front["model-index"] = [{"name": name, "results": [_indexed(one) for one in results]}]
    sections = (
        card.template(TEMPLATE)
        .render(
            results=results,
            rights=rights,
            license=license.get("license_name") or license["license"],
            user=_is_user(folder),
            built=bool(rights.begins),
        )
        .split("<!-- terms -->")
    )
    body, mark, after = body.partition("\n## Data\n")
    kept = re.search(r"^## Licence\n.*?(?=^## |\Z)", after, re.MULTILINE | re.DOTALL)
    data = re.search(r"^That of the conversations.*$", kept[0], re.MULTILINE) if kept else None
    terms = f"{sections[1].strip()}\n\n{data[0] if data else ''}".strip()
    if kept:  # what training could say of the licence is less than is known now
        after = f"{after[: kept.start()]}{terms}\n\n{after[kept.end() :]}"
        terms = ""
    body = "\n\n".join(one for one in (body.rstrip(), sections[0].strip(), terms) if one)
    body = f"{body}\n{mark}{after}"
    return card.checked(f"---\n{yaml_of(front)}\n---\n\n{body.strip()}\n", "model")


def _indexed(result: Record) -> Record:
    """A result in the form of the Hub's model-index."""
    return {
        "task": {"type": "text-generation", "name": "User simulation"},
        "dataset": {
            "type": re.sub(r"[^\w./-]+", "-", Path(result["file"]).stem, flags=re.ASCII),
            "name": f"{result['file']} ({result['n']:,} held-out conversations)",
        },
        "metrics": [
            {"type": one["type"], "name": one["name"], "value": one["value"]}
            for one in result["metrics"]
        ],
    }


def _is_user(folder: Path) -> bool:
    about = licences.read_yaml(folder / "userlm_synth.json")  # JSON is YAML
    return bool(about.get("speaker", "user") == "user")


def _clean(folder: Path, text: str, settings: Push) -> str:
    """The card without personal data or secrets; raises `UserError` where it holds any."""
    found = scan.Found()
    scan.scan_value(text, "README.md", found)
    about = folder / "userlm_synth.json"
    if about.is_file():
        inside = scan.Found()
        scan.scan_value(parse_json(about.read_bytes()), about.name, inside)
        if inside.counts:
            raise Problems(
                [f"{about}: holds {scan.listed(inside.counts)}; take it out of the settings"]
            )
    if not found.counts:
        return text
    if not settings.redact:
        raise scan.refusal(folder, found)
    counts: Counter[str] = Counter()
    clean, more = privacy.redact(text)
    counts.update(more)
    say(f"  README.md: placeholders instead of {scan.listed(counts)}")
    return clean
