"""The dataset folder, exactly as it would be published: Parquet, card, schema, report, checksums.

`messages` is the first column and the field's standard conversational form, so
`datasets.load_dataset(FOLDER)` and TRL's `SFTTrainer` take it as it is. Nothing is made of texts
that hold personal data or secrets, unless `push.redact` puts placeholders in.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth import __version__
from userlm_synth.errors import UserError
from userlm_synth.folders import whole_folder
from userlm_synth.privacy import find_in_record, redact, redact_record
from userlm_synth.records import Record, read_records, sha256_file
from userlm_synth.resources import data_folder

if TYPE_CHECKING:
    from userlm_synth.recipe import Push

COLUMNS = (
    "messages", "id", "intent", "persona", "intent_id", "stop_reason", "source", "language",
    "user_model", "assistant_model", "seed", "end_probabilities", "recipe_hash",
)  # fmt: skip
AS_JSON = ("metadata", "guardrails", "usage")  # open-ended objects: one string column each


def split_by_intent(dialogues: Sequence[Record], share: float) -> dict[str, list[Record]]:
    """Train and validation with no intent in both; by a hash of the intent's text alone."""
    parts: dict[str, list[Record]] = {"train": [], "validation": []}
    for one in dialogues:
        digest = hashlib.blake2b(one["intent"].encode(), digest_size=8).digest()
        low = int.from_bytes(digest, "big") / 2**64 < share
        parts["validation" if low else "train"].append(one)
    return {name: part for name, part in parts.items() if part}


def build_dataset(run: Path, out: Path, settings: Push, name: str) -> Record:
    """Make the folder from a run's `dialogues/`, `report/` and `recipe.yaml`, all or nothing."""
    files = sorted((run / "dialogues").glob("part-*.jsonl"))
    dialogues = [record for file in files for record in read_records(file, "dialogue")]
    if not dialogues:
        raise UserError(f"{run / 'dialogues'}: no accepted dialogue to publish")
    recipe = (run / "recipe.yaml").read_text("utf-8") if (run / "recipe.yaml").is_file() else ""
    secrets = _secrets(dialogues, recipe)
    if secrets and not settings.redact:
        raise _refusal(run, secrets)
    recipe, redacted = redact(recipe)
    for one in dialogues if secrets else ():
        redacted.update(redact_record(one))
    with whole_folder(out) as part:
        splits = split_by_intent(dialogues, settings.validation)
        for split, records in splits.items():
            _write_parquet(part / "data" / f"{split}-00000-of-00001.parquet", records)
        schema = data_folder("schemas") / "dialogue.schema.json"
        _copy(schema, part / "dialogue.schema.json")
        if recipe:
            (part / "recipe.yaml").write_text(recipe, "utf-8")
        for file in ("report/report.json", "report/index.html"):
            if (run / file).is_file():
                _copy(run / file, part / Path(file).name)
        if secrets and (part / "index.html").is_file():
            _redact_page(part / "index.html", secrets)
        card = _card(dialogues, splits, settings, name, redacted)
        (part / "README.md").write_text(card, "utf-8")
        sums = {
            file.relative_to(part).as_posix(): sha256_file(file)
            for file in sorted(part.rglob("*"))
            if file.is_file()
        }
        lines = "".join(f"{digest}  {file}\n" for file, digest in sums.items())
        (part / "SHA256SUMS").write_text(lines)
    return {split: len(records) for split, records in splits.items()}


def _secrets(dialogues: Sequence[Record], recipe: str) -> list[tuple[str, str, str]]:
    """(place, kind, what was found) in the dialogues, and in the recipe, which is published too."""
    found = [
        (f"dialogue {dialogue['id']!r}, {place}", kind, secret)
        for dialogue in dialogues
        for place, kind, secret in find_in_record(dialogue)
    ]
    as_record = {"messages": [{"content": recipe}]}
    return found + [("recipe.yaml", kind, secret) for _, kind, secret in find_in_record(as_record)]


def _refusal(run: Path, secrets: Sequence[tuple[str, str, str]]) -> UserError:
    counts = _listed(Counter(kind for _, kind, _ in secrets))
    return UserError(
        f"{run}: personal data or secrets in what would be published ({counts}), the first in "
        f"{secrets[0][0]}; set push.redact=true to publish placeholders such as "
        f"[{secrets[0][1]}] in their place"
    )


def _redact_page(path: Path, secrets: Sequence[tuple[str, str, str]]) -> None:
    """Replace in the report's page what was found in the dialogues; it shows some of them."""
    from markupsafe import escape

    page = path.read_text("utf-8").replace("<wbr>", "")  # stands inside of long words
    for _, kind, secret in sorted(secrets, key=lambda one: -len(one[2])):
        page = page.replace(str(escape(secret.replace("\r\n", "\n"))), f"[{kind}]")
    path.write_text(page, "utf-8")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_parquet(path: Path, records: Sequence[Record]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    kinds = {"messages": pa.list_(message), "seed": pa.int64()}
    kinds["end_probabilities"] = pa.list_(pa.float64())
    fields = [(column, kinds.get(column, pa.string())) for column in (*COLUMNS, *AS_JSON)]
    rows = [
        {
            **{column: record[column] for column in COLUMNS},
            **{column: json.dumps(record[column], ensure_ascii=False) for column in AS_JSON},
        }
        for record in records
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), path)


def _size_category(count: int) -> str:
    for limit, label in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K")):
        if count < limit:
            return label
    return "100K<n<1M" if count < 10**6 else "n>1M"


def _card(
    dialogues: Sequence[Record],
    splits: dict[str, list[Record]],
    settings: Push,
    name: str,
    redacted: Counter[str],
) -> str:
    """The dataset card: front matter, what it is, how it was made, one full record."""
    import yaml

    title = settings.pretty_name or f"{name} dialogues"
    front = {
        "pretty_name": title,
        "license": settings.license or "other",
        "task_categories": ["text-generation"],
        "annotations_creators": ["machine-generated"],
        "size_categories": [_size_category(len(dialogues))],
        "tags": ["synthetic", "conversational", "userlm_synth"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"data/{s}-*.parquet"} for s in splits],
            }
        ],
    }
    stops = Counter(one["stop_reason"] for one in dialogues)
    turns = [sum(m["role"] == "user" for m in one["messages"]) for one in dialogues]
    first = dialogues[0]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            f"# {title}",
            "",
            f"{len(dialogues):,} synthetic dialogues between a user language model and an "
            "assistant, each from a high-level intent. Every turn is machine-generated.",
            "",
            f"- User model: `{first['user_model']}`",
            f"- Assistant model: `{first['assistant_model']}`",
            f"- Made with userlm_synth {__version__}; `recipe.yaml` is the recipe "
            f"(hash `{first['recipe_hash']}`)",
            "- Splits, with no intent in both: "
            + ", ".join(f"{split} {len(records):,}" for split, records in splits.items()),
            f"- User turns a dialogue: {sum(turns) / len(turns):.2f} on average, "
            f"{min(turns)} to {max(turns)}",
            "- How dialogues stopped: "
            + ", ".join(f"`{reason}` {count:,}" for reason, count in stops.most_common()),
            "- Scanned for e-mail addresses, phone, card and account numbers, IP addresses, keys "
            "and passwords: "
            + (f"placeholders instead of {_listed(redacted)}" if redacted else "none found"),
            "- `index.html` and `report.json`: diversity and naturalness beside the reference "
            "conversations",
            "- `dialogue.schema.json`: the JSON Schema of a dialogue; `SHA256SUMS`: checksums",
            *([] if settings.license else ["- Licence: not stated yet"]),
            "",
            "## Load",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            'dataset = load_dataset("THIS_REPOSITORY")  # `messages` is ready for TRL',
            "```",
            "",
            "`metadata`, `guardrails` and `usage` are JSON text.",
            "",
            "## One record",
            "",
            "```json",
            json.dumps(first, indent=2, ensure_ascii=False).replace("```", "'''"),
            "```",
            "",
        ]
    )
