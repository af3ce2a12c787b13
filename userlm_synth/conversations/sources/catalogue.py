"""The datasets that go by a short name, and addresses on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.errors import UserError

if TYPE_CHECKING:
    from userlm_synth.recipe import Conversations

HUB = "hf://datasets/"


@dataclass(frozen=True)
class Named:
    """A dataset on the Hub that a recipe can call by a short name."""

    repo: str
    form: str
    license: str
    terms: str = ""  # what the licence's name does not say
    config: str | None = None
    file: str | None = None  # the one JSON file to read, where the repository holds others too


NAMED = {
    "wildchat": Named(
        "allenai/WildChat-1M",
        "wildchat",
        "odc-by",
        "the larger one is hf://datasets/allenai/WildChat-4.8M",
    ),
    "lmsys": Named(
        "lmsys/lmsys-chat-1m",
        "lmsys",
        "other",
        "LMSYS-Chat-1M Dataset License Agreement: gated, the conversations may not be given on",
    ),
    "prism": Named(
        "HannahRoseKirk/prism-alignment",
        "prism",
        "cc-by-4.0",
        "texts by people CC BY 4.0, replies by models CC BY-NC 4.0",
        config="conversations",
    ),
    "oasst": Named("OpenAssistant/oasst1", "oasst", "apache-2.0"),
    "sharegpt": Named(
        "anon8231489123/ShareGPT_Vicuna_unfiltered",
        "sharegpt",
        "unknown",
        "from sharegpt.com; its uploader says apache-2.0, the authors were not asked",
        file="ShareGPT_V3_unfiltered_cleaned_split.json",
    ),
    "hh-rlhf": Named("Anthropic/hh-rlhf", "hh-rlhf", "mit"),
}


def hub_address(source: str) -> tuple[str, str | None] | None:
    """(repository, revision or None) of a named source or an hf:// address; None for a file."""
    if source in NAMED:
        return NAMED[source].repo, None
    if not source.startswith(HUB):
        return None
    repo, at, revision = source[len(HUB) :].rstrip("/").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or (at and not revision):
        raise UserError(
            f"{source}: an address on the Hub is {HUB}ORG/NAME or {HUB}ORG/NAME@REVISION"
        )
    return repo, revision or None


def named(source: str) -> Named | None:
    """What is known of a source: by its short name, or by the same repository's address."""
    address = hub_address(source)
    return next((one for one in NAMED.values() if address and one.repo == address[0]), None)


@lru_cache(maxsize=4096)
def source_label(source: str, file: str, form: str) -> str:
    """`source` of a draft: the repository, else the dataset that the form is of, else the file."""
    address = hub_address(source)
    if address:
        return address[0]
    return form if form in NAMED and form != "sharegpt" else Path(file).name


@lru_cache(maxsize=4096)
def id_stem(source: str, file: str) -> str:
    """What ids of rows without one begin with: unique to the file within its source."""
    address = hub_address(source)
    if address:
        return address[0].split("/")[1]
    path = Path(file)
    if path == Path(source):
        return path.name.split(".")[0]
    return path.relative_to(source).as_posix()  # whole: a.jsonl and a.csv may be neighbours


def row_id(settings: Conversations, file: str, number: int) -> str:
    """The id of a row that has none: `chats-0000012`."""
    return f"{id_stem(settings.source, file)}-{number:07d}"
