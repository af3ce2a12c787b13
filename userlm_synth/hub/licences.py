"""Rights: licences of the sources, licences and terms of the models, and what is not known.

Of a source the run's data card says it, of a model its own card, or the list of families in
`licences.yaml`, or the Hub; the recipe's `push.sources` and `push.models` say the rest, and win.
What is known here is a help to people, no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.pages.markdown import front_matter
from userlm_synth.records import Record, parse_json

if TYPE_CHECKING:
    from userlm_synth.recipe import Push

FAMILIES = Path(__file__).with_name("licences.yaml")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
DATASETS = "https://huggingface.co/datasets/"
#: What stands in a field where somebody said that they do not know.
UNKNOWN = ("", "unknown", "none", "not stated", "n/a")


@dataclass(frozen=True)
class Rights:
    """What is known of one source or model."""

    name: str
    role: str  # source, user, assistant, base
    revision: str | None = None
    license: str | None = None
    terms: str = ""
    link: str | None = None
    begins: str | None = None  # what the name of a model made from it has to begin with
    notice: str | None = None  # what has to stand beside such a model
    base: str | None = None  # what a model was made from

    @property
    def known(self) -> bool:
        """Whether anything is said of its licence."""
        return bool(self.license) and str(self.license).lower() not in UNKNOWN

    def as_record(self) -> Record:
        """For the manifest."""
        names = ("name", "role", "revision", "license", "terms", "link", "base")
        return {name: getattr(self, name) for name in names}


# ---- sources -----------------------------------------------------------------------------------


def sources(home: Path | None, settings: Push) -> list[Rights]:
    """Where the conversations of a run come from, and what the recipe names beside."""
    found: dict[str, Rights] = {}
    card = home / "conversations" / "card.json" if home else None
    if card and card.is_file():
        source = parse_json(card.read_bytes())["source"]
        where = source["where"]
        hub = where if HUB_ID.fullmatch(where) and source["revision"] else None
        address = f"{DATASETS}{hub}" if hub else where
        found[source["name"]] = Rights(
            where.removeprefix(DATASETS) if address.startswith(DATASETS) else source["name"],
            "source",
            source["revision"],
            source["license"],
            source.get("terms") or "",
            address if address.startswith("https://") else None,
        )
    given = dict(settings.sources or {})
    for key, one in found.items():
        said = given.pop(one.name, None) or given.pop(key, None)
        found[key] = _said(one, said) if said else one
    return [*found.values(), *(_said(Rights(name, "source"), text) for name, text in given.items())]


def _said(one: Rights, text: str) -> Rights:
    """With the licence or terms that the recipe says: a licence's name, or a sentence."""
    license, _, terms = text.partition(":") if re.match(r"[\w.+-]+:\s", text) else (text, "", "")
    return replace(one, license=license.strip(), terms=terms.strip() or one.terms)


# ---- models ------------------------------------------------------------------------------------


def model(row: str, role: str, home: Path | None, settings: Push, *, ask: bool = False) -> Rights:
    """A model as the rows name it: `user_lm#79580be2ee83`, `openai:gpt-4o`, `org/name@REVISION`.

    With `ask` the Hub is asked for the licence of an id that nothing here says anything of.
    """
    name, revision = named(row)
    found = _made_here(row, role, home) or _family(name, role, revision)
    if not found.known and ask and HUB_ID.fullmatch(name):
        found = _of_license(Rights(name, role, revision, hub_license(name, revision)))
    given = settings.models or {}
    said = next((given[one] for one in (row, row.split("#")[0], name) if one in given), None)
    return _said(found, said) if said else found


def named(row: str) -> tuple[str, str | None]:
    """(name, revision or fingerprint or None) of a model, without what says how it was reached."""
    text = row.removeprefix("prompted:").split("+")[0]
    text = re.sub(r"^(hf|vllm|openai):", "", text)
    for mark in "#@":
        name, found, revision = text.partition(mark)
        if found and name:
            return name, revision
    return text, None


def _made_here(row: str, role: str, home: Path | None) -> Rights | None:
    """A model that this run made, from its own card: the licence is that of its base."""
    name, revision = named(row)
    if home is None or revision is None or "#" not in row or "/" in name:
        return None
    recipe = read_yaml(home / "recipe.yaml")
    folder = _folder(name, home, recipe)
    if folder is None:
        return None
    return of_folder(folder, role, revision, recipe if folder.parent == home else {})


def _folder(name: str, home: Path, recipe: Record) -> Path | None:
    """The checkpoint's folder: of the run, or the one that its recipe names."""
    generate, assistant = recipe.get("generate") or {}, recipe.get("assistant") or {}
    for place in (generate.get("user"), assistant.get("model"), str(home / name)):
        path = Path(str(place or "").removeprefix("hf:")).expanduser()
        if place and path.name == name and path.is_dir():
            return path
    return None


def of_folder(
    folder: Path, role: str, revision: str | None = None, recipe: Record | None = None
) -> Rights:
    """A checkpoint's rights, as the card in its folder says them; those of its base's family."""
    front = front_matter(folder / "README.md")
    recipe = recipe or {}
    base = front.get("base_model") or (recipe.get("base") or {}).get("model")
    base = base[0] if isinstance(base, list) and base else base
    found = _family(str(base), role) if base else Rights("", role)
    license = front.get("license") or found.license
    terms = found.terms
    if not base and (recipe.get("base") or {}).get("scratch"):
        terms = "Made in this run, its base too; there are no terms of others."
        shipped = (recipe.get("conversations") or {}).get("source") == "quickstart"
        license = license or ("apache-2.0" if shipped else "its maker's own")
    made = Rights(
        folder.name, role, revision, license, terms, found.link, found.begins, found.notice,
        str(base) if base else None,
    )  # fmt: skip
    return _of_license(made)


def _of_license(one: Rights) -> Rights:
    """With the terms of its licence, where the model's name said nothing of them."""
    if one.terms or not one.license:
        return one
    found = _family(one.license, one.role)
    return replace(
        one, terms=found.terms, link=found.link or one.link,
        begins=found.begins or one.begins, notice=found.notice or one.notice,
    )  # fmt: skip


@cache
def families() -> list[Record]:
    """The list of families, in order."""
    import yaml

    found: list[Record] = yaml.safe_load(FAMILIES.read_text("utf-8"))
    return found


def _family(name: str, role: str, revision: str | None = None) -> Rights:
    """What the list says of a model's name."""
    plain = re.sub(r"^hf:", "", name).partition("@")[0].lower()
    for one in families():
        if found := re.search(one["match"], plain):
            version = found.groupdict().get("version") or ""
            fields = {
                key: text.replace("{version}", version).replace("{page}", version.replace(".", "_"))
                for key, text in one.items()
            }
            return Rights(
                name,
                role,
                revision,
                fields["license"],
                fields.get("terms", ""),
                fields["link"],
                fields.get("begins"),
                fields.get("notice"),
            )
    return Rights(name, role, revision)


def hub_license(name: str, revision: str | None) -> str | None:
    """A model's licence as its card on the Hub says it; None where nobody answers."""
    from huggingface_hub import model_info

    try:
        card = model_info(name, revision=revision, timeout=10).card_data
        found: Any = card.get("license") if card else None
    except Exception:  # no network, no such repository, no access, no card: not known
        return None
    return found if isinstance(found, str) else None


# ---- what is missing ---------------------------------------------------------------------------


def problems(
    settings: Push, named_sources: Sequence[Rights], models: Iterable[Rights]
) -> list[str]:
    """What has to be known before anything is published: a line each, with the setting to give."""
    found = []
    if not settings.license:
        found.append(
            "push.license: is missing; name the licence of the dialogues, as "
            "push.license=cc-by-4.0 (or other, with push.license_name and push.license_link)"
        )
    elif settings.license == "other" and not (settings.license_name and settings.license_link):
        found.append("push.license_name: is missing; of `other` give push.license_link too")
    if not named_sources:
        found.append(
            "push.sources: where the intents and the training conversations come from is not "
            'known here; name it with its licence, as push.sources="{NAME: LICENCE}"'
        )
    found += [
        f"push.sources: the licence of {one.name} is not known here; give it, as "
        f'push.sources="{{{_key(one.name)}: LICENCE}}"'
        for one in named_sources
        if not one.known
    ]
    found += [
        f"push.models: the licence or terms of the {one.role} model {one.name} are not known "
        f'here; give them, as push.models="{{{_key(one.name)}: LICENCE_OR_TERMS}}"'
        for one in models
        if not one.known
    ]
    return list(dict.fromkeys(found))


def naming_problem(rights: Rights, name: str) -> str | None:
    """Why a model that is made from another may not have this name; None where it may."""
    if not rights.begins:
        return None
    plain = re.sub(r"[-_ ]+", " ", name).lower()
    if plain.startswith(rights.begins.lower()):
        return None
    return (
        f"{name}: the licence of {rights.base or rights.name} ({rights.license}) asks for a name "
        f"that begins with {rights.begins!r}; push it as "
        f"{rights.begins.replace(' ', '-')}-{name}, and keep 'Built with Llama' on its page"
    )


def is_identifier(license: str | None) -> bool:
    """Whether it can stand in the Hub's `license` field."""
    return bool(license and re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license))


def _key(name: str) -> str:
    """A name as a YAML key."""
    return name if re.fullmatch(r"[\w./+-]+", name) else f"'{name}'"


# ---- files -------------------------------------------------------------------------------------


def read_yaml(path: Path) -> Record:
    """A YAML mapping; empty where there is no file, or none that can be read."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
