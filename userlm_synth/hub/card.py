"""The dataset card: front matter that the Hub reads, and what a stranger needs to know.

What it says is checked before it is written: the front matter is parsed back with
`huggingface_hub`'s own class and against `dataset_card.schema.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth import __version__
from userlm_synth.hub import rows, scan
from userlm_synth.hub.licences import DATASETS, Rights
from userlm_synth.pages import number
from userlm_synth.pages.markdown import card_template, front_matter, yaml_of
from userlm_synth.recipe import lasting
from userlm_synth.records import Record, check

if TYPE_CHECKING:
    from userlm_synth.hub.folder import Release
    from userlm_synth.recipe import Push

TEMPLATE = Path(__file__).with_name("dataset_card.md.j2")
GROUPS = {"naturalness": "Naturalness", "diversity": "Diversity", "trust": "Trust"}
HEADLINES = 6  # figures of a group
#: Settings of the machines, not of what is said.
MACHINES = ("ray", "server", "train", "num", "combine")
ALTS = {
    "diversity": "Diversity beside people",
    "naturalness": "Naturalness beside people",
    "lengths": "Turns and lengths",
    "stop_reasons": "How dialogues stopped",
}


def render(made: Release, splits: dict[str, Record], shown: Record, folder: Path) -> str:
    """The card's text; `shown` holds `recipe`, `report`, `example` and `plots`, as published."""
    front = front_of(made, splits)
    text = template(TEMPLATE).render(
        front=yaml_of(front),
        title=front["pretty_name"],
        made=made,
        settings=made.settings,
        facts=made.facts,
        splits=splits,
        turns=_turns(made.facts),
        license=license_name(made.settings),
        figures=_figures(shown["report"]),
        report=shown["report"] or {},
        page=(folder / "index.html").is_file(),
        rejected=_rejected(shown["report"]),
        plots=[(_alt(path), path) for path in shown["plots"]],
        example=shown["example"],
        record=json.dumps(shown["example"], ensure_ascii=False, indent=2),
        sampling=list(_sampling(shown["recipe"])),
        redacted=scan.listed(made.counts),
        notices=list(dict.fromkeys(one.notice for one in made.models if one.notice)),
        again=_again(made, shown["recipe"]),
        version=__version__,
    )
    return checked(text, "dataset")


# ---- shared with the model card ----------------------------------------------------------------


def template(path: Path) -> Any:
    """A card's template, with the filters for numbers too."""
    return card_template(path, number=number, figure=figure)


def checked(text: str, kind: str) -> str:
    """A card whose front matter says to the Hub's own reader what it says to our schema."""
    import tempfile

    from huggingface_hub import DatasetCard, ModelCard

    card = (DatasetCard if kind == "dataset" else ModelCard)(text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "README.md"
        path.write_text(text, "utf-8")
        front = check(front_matter(path), f"{kind}_card", "README.md")
    if kind == "dataset":
        read: Record = card.data.to_dict()  # type: ignore[no-untyped-call]
        assert read == front, "the Hub reads another front matter"
    return text


def figure(value: float | None) -> str:
    """A number with three digits that mean something."""
    if value is None:
        return "\u2013"
    if value and abs(value) < 1:
        return f"{value:.3g}".replace("-", "\u2212")
    return number(value)


# ---- front matter ------------------------------------------------------------------------------


def front_of(made: Release, splits: dict[str, Record]) -> Record:
    """The YAML metadata in the Hub's words (its dataset card specification)."""
    settings = made.settings
    title = settings.pretty_name or f"{made.name} dialogues"
    front: Record = {"pretty_name": " ".join(title.split())}
    front["license"] = settings.license or "unknown"
    if settings.license == "other":
        front["license_name"] = settings.license_name or "not-stated"
        if settings.license_link:
            front["license_link"] = settings.license_link
    if made.languages:
        front["language"] = made.languages
    return {
        **front,
        "task_categories": ["text-generation"],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "source_datasets": _source_datasets(made.sources),
        "size_categories": [size_category(made.facts.total)],
        "tags": ["synthetic", "conversational", "userlm_synth"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"data/{s}-*.parquet"} for s in splits],
            }
        ],
        "dataset_info": {
            "features": _features(),
            "splits": [
                {"name": name, "num_bytes": facts["memory"], "num_examples": facts["rows"]}
                for name, facts in splits.items()
            ],
            "download_size": sum(facts["bytes"] for facts in splits.values()),
            "dataset_size": sum(facts["memory"] for facts in splits.values()),
        },
    }


def _features() -> list[Record]:
    """The columns as `datasets` writes them in a card."""
    texts = [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]
    kinds: dict[str, Record] = {
        "messages": {"list": texts},
        "seed": {"dtype": "int64"},
        "end_probabilities": {"list": "float64"},
    }
    names = (*rows.COLUMNS, *rows.AS_JSON)
    return [{"name": name, **kinds.get(name, {"dtype": "string"})} for name in names]


def size_category(count: int) -> str:
    """The Hub's word for a number of rows."""
    for limit, label in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"),
                         (10**6, "100K<n<1M"), (10**7, "1M<n<10M")):  # fmt: skip
        if count < limit:
            return label
    return "10M<n<100M" if count < 10**8 else "n>100M"


def _source_datasets(sources: Sequence[Rights]) -> list[str]:
    hub = [one.name for one in sources if (one.link or "").startswith(DATASETS)]
    return hub or ["original"]


def license_name(settings: Push) -> str | None:
    """The licence as people call it."""
    if settings.license == "other" and settings.license_name:
        return settings.license_name
    return settings.license


# ---- body --------------------------------------------------------------------------------------


def _turns(facts: rows.Facts) -> Record:
    every = facts.turns
    total = sum(every.values())
    mean = sum(turns * count for turns, count in every.items()) / total
    return {"mean": mean, "least": min(every), "most": max(every)}


def _figures(report: Record | None) -> list[Record]:
    """The first measured figures of each group, as rows: name, unit, made, people, verdict."""
    sets = (report or {}).get("sets") or [{}]
    found = []
    for group, title in GROUPS.items():
        measured = [
            row
            for one in (report or {}).get("definitions", [])
            if one["group"] == group
            and (row := _row(one, sets[0].get("figures", {}).get(one["key"]) or {}))
        ]
        if measured:
            found.append({"title": title, "rows": measured[:HEADLINES]})
    return found


def _row(about: Record, one: Record) -> Record | None:
    if one.get("kind") not in ("sides", "between"):
        return None
    people = one.get("people") if one["kind"] == "sides" else one.get("floor")
    beyond = one.get("beyond_chance")
    return {
        "name": about["name"],
        "unit": about["unit"],
        "made": one["made"],
        "people": people,
        "verdict": "\u2013" if beyond is None else "yes" if beyond else "no",
    }


def _rejected(report: Record | None) -> Record:
    sets = (report or {}).get("sets") or [{}]
    found: Record = (sets[0].get("shape") or {}).get("rejected") or {}
    return found


def _sampling(recipe: Record) -> Iterator[tuple[str, str]]:
    """Settings of the two sides, as dotted names and values; what is not set is left out."""
    for section in ("generate", "assistant"):
        part = lasting(recipe.get(section) or {})
        yield from _flat({k: v for k, v in part.items() if k not in MACHINES}, section)


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}")
    elif value not in (None, [], ""):
        yield name, json.dumps(value) if isinstance(value, (list, bool)) else str(value)


def _again(made: Release, recipe: Record) -> list[str]:
    """The commands that make the dataset again; empty where no recipe is known."""
    if not recipe:
        return [made.command] if made.command else []
    folder = f"runs/{made.repo_id.rpartition('/')[2]}"
    return [
        f"userlm-synth run recipe.yaml --out {folder}",
        f"userlm-synth push {folder} {made.repo_id}",
    ]


def _alt(path: str) -> str:
    stem = Path(path).stem
    return ALTS.get(stem, stem.replace("_", " ").capitalize())
