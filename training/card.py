"""The model card of a trained checkpoint: `README.md` with the front matter that the Hub reads.

It says what the model is, how to use it, its figures, its data, licences, limits, settings and the
command that makes it again. No text of people is in it and no path of the machine: a local folder
or file is named by its last name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from userlm_synth import __version__
from userlm_synth.pages import number
from userlm_synth.pages.markdown import card_template, front_matter, yaml_of
from userlm_synth.privacy import redact
from userlm_synth.progress import duration, say
from userlm_synth.records import Record, write_bytes
from userlm_synth.user_lm.loading import split_revision

TEMPLATE = Path(__file__).with_name("card.md.j2")
LAST = 20  # steps over which the final losses are means
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def write_model_card(folder: Path, facts: Record) -> None:
    """Write `folder/README.md`.

    `facts`: `name` (title), `speaker` ("user" or "assistant"), `base` (Hub id or folder, None where
    it was made from nothing), `log` (of the training: `watching.read_log`), `settings` (of the
    training, plain data), `command`, `seed`, `processes`, `device` (its name), `conversations`
    (trained on), `data` (the data card, `card.json` as read; None where there is none), and
    `license` (of the base; looked up with `base_license` where the key is not there).
    """
    write_bytes(folder / "README.md", [render_model_card(facts).encode()])


def render_model_card(facts: Record) -> str:
    """The card's text; see `write_model_card`."""
    import torch
    import transformers

    user, data, base = facts["speaker"] == "user", facts["data"] or {}, _base(facts["base"])
    license = facts["license"] if "license" in facts else base_license(facts["base"] or "")
    text: str = card_template(TEMPLATE).render(
        front=_front_matter(user, base, license, data),
        name=_plain(facts["name"]),
        user=user,
        base=base["text"],
        scratch=facts["base"] is None,
        figures=_figures(facts),
        validated=any("validation" in line for line in facts["log"]),
        data=_data(facts["conversations"], data),
        known=bool(data),
        redacted=bool(data) and bool(data["settings"].get("redact")),
        license=license,
        data_license=data["source"]["license"] if data else None,
        settings=_settings({**facts["settings"], "seed": facts["seed"]}),
        command=_command(facts["command"]),
        versions={
            "userlm_synth": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        cell=_cell,
    )
    return text


def base_license(name: str) -> str | None:
    """A base's licence as its own card says it, in the Hub's words (`apache-2.0`, `llama3.2`).

    `name` is a folder, whose README.md is read, or a Hub id, which is asked for over the network.
    None where nothing is said or nobody answers; never an error.
    """
    path, revision = split_revision(name.removeprefix("hf:"))
    try:
        folder = Path(path).expanduser()
        if folder.is_dir():
            found = front_matter(folder / "README.md").get("license")
        elif HUB_ID.fullmatch(path):
            from huggingface_hub import model_info

            card = model_info(path, revision=revision, timeout=10).card_data
            found = card.get("license") if card else None
        else:
            return None
    except Exception as error:  # no network, no such repository, no access, no card, not YAML
        say(f"  {path}: its licence could not be looked up ({type(error).__name__})")
        return None
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    return found if isinstance(found, str) and re.fullmatch(r"[\w.+-]+", found) else None


def _base(name: str | None) -> Record:
    """A base's Hub id (None for a folder) and how the card calls it."""
    if name is None:
        return {"hub": None, "text": "made for this model, from the same conversations' plain text"}
    path, revision = split_revision(name.removeprefix("hf:"))
    if not HUB_ID.fullmatch(path) or _is_here(path):
        return {"hub": None, "text": f"the checkpoint `{_place(path)}`"}
    at = f" at revision `{revision}`" if revision else ""
    return {"hub": path, "text": f"[{path}](https://huggingface.co/{path}){at}"}


def _front_matter(user: bool, base: Record, license: str | None, data: Record) -> str:
    """YAML metadata in the Hub's words (its model card specification)."""
    tags = ["userlm_synth", *(["user-simulation"] if user else []), "conversational"]
    front: Record = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if license:
        front["license"] = license
    if languages := _languages(data):
        front["language"] = languages
    if base["hub"]:
        front |= {"base_model": base["hub"], "base_model_relation": "finetune"}
    if data and _is_dataset(data["source"]):
        front["datasets"] = [data["source"]["where"]]
    return yaml_of({**front, "tags": tags})


def _languages(data: Record) -> list[str]:
    """Codes of the languages with at least 1 % of the conversations, the most frequent first."""
    counts = data.get("languages", {})
    enough = sum(counts.values()) / 100
    ranked = sorted(counts, key=lambda code: (-counts[code], code))
    codes = [code.split("-")[0].lower() for code in ranked if counts[code] >= enough]
    return list(dict.fromkeys(code for code in codes if re.fullmatch("[a-z]{2,3}", code)))


def _figures(facts: Record) -> list[tuple[str, str]]:
    """What the log says of the training's end, as rows of a table."""
    log = facts["log"]
    steps = [line for line in log if "validation" not in line]
    last = steps[-LAST:]
    validations: list[Record] = [line["validation"] for line in log if "validation" in line]
    found = validations[-1] if validations else {}
    intent = " with intent" if found.get("perplexity_no_intent") is not None else ""
    over = f"mean of the last {len(last)} steps" if len(last) > 1 else "last step"
    processes, device = facts["processes"], facts["device"]
    rows = [
        (f"training loss, {over}", _nats(_mean(last, "loss", "targets"))),
        ("the same at the end token", _nats(_mean(last, "end_loss", "ends"))),
        ("end token most likely where people left", _percent(_mean(last, "end_accuracy", "ends"))),
        (f"validation perplexity{intent}", _number(found.get("perplexity"))),
        ("validation perplexity without intent", _number(found.get("perplexity_no_intent"))),
        ("steps", number(len(steps))),
        ("target tokens", number(round(sum(line["targets"] for line in steps)))),
        ("time in steps", duration(sum(line["seconds"] for line in steps))),
        ("trained on", f"{device}, {processes} process{'es' if processes > 1 else ''}"),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _mean(lines: Sequence[Record], name: str, weight: str) -> float | None:
    """The mean of a figure over steps, weighted by what it is a mean of."""
    known = [line for line in lines if line.get(name) is not None and line.get(weight)]
    total = sum(line[weight] for line in known)
    return sum(line[name] * line[weight] for line in known) / total if known else None


def _nats(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f} nats a token"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.0f} %"


def _number(value: float | None) -> str | None:
    return None if value is None else number(value)


def _data(conversations: int, data: Record) -> list[tuple[str, str]]:
    """Where the conversations are from and how many there are, as rows of a table."""
    rows = [("conversations trained on", number(conversations))]
    if data:
        source, train = data["source"], data["splits"]["train"]
        named = where = source["where"]
        if _is_dataset(source):
            named = f"[{where}](https://huggingface.co/datasets/{where}) at {source['revision']}"
        elif source["revision"] is None:  # a file or folder
            named = Path(where).name
        rows.insert(0, ("source", named))
        rows.append(("people in the train split", number(train["users"])))
        rows.append(("user turns in the train split", number(train["user_turns"])))
        rows.append(("languages", ", ".join(_languages(data)) or "not known"))
    return rows


def _is_dataset(source: Record) -> bool:
    """Whether a data card's source is a dataset on the Hub."""
    return source["revision"] is not None and bool(HUB_ID.fullmatch(source["where"]))


def _settings(settings: Record) -> list[tuple[str, str]]:
    """Each setting and its value; what is not set is left out."""
    return [
        (name, _value(value)) for name, value in settings.items() if value not in (None, (), [])
    ]


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(one) for one in value)
    return _place(value) if isinstance(value, str) else str(value).lower()


def _command(command: str) -> str:
    """A shell command with last names in place of paths."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return shlex.join(_argument(word) for word in words)


def _argument(word: str) -> str:
    key, equals, value = word.rpartition("=")
    spec = "hf:" if value.startswith("hf:") and "://" not in value else ""
    return f"{key}{equals}{spec}{_place(value.removeprefix(spec))}"


def _place(text: str) -> str:
    """The last name of a path of this machine; other text (Hub ids, URLs) as it is, but for what
    looks like a secret."""
    path = Path(text)
    if "/" not in text or not path.name:
        local = False
    elif text.startswith(("/", "~", ".")) or _is_here(text):
        local = True
    else:  # a file that has gone; `org/model-1.5B@v2` is none
        hub = HUB_ID.fullmatch(text.partition("@")[0])
        local = bool(path.suffix) and "://" not in text and not hub
    return redact(path.name if local else text)[0]


def _is_here(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # longer than a name may be
        return False


def _plain(text: str) -> str:
    return " ".join(redact(text)[0].split())


def _cell(text: str) -> str:
    """Text that does not break a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
