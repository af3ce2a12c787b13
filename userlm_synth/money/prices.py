"""The price table: shipped prices, a person's own, and those of one run.

A file is a mapping of model names to `{read: ..., written: ..., cached: ...}`, USD a million
tokens. What a later file says of a name takes the place of what an earlier one says.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from userlm_synth.errors import Problems, UserError
from userlm_synth.money.price import Price
from userlm_synth.money.purse import BUDGETS

FREE = Price(0.0, 0.0, 0.0)
FIELDS = ("read", "written", "cached")


class Prices:
    """Prices by the name of a model, or by a pattern in which `*` stands for anything."""

    def __init__(self, table: Mapping[str, Price]) -> None:
        self.table = dict(table)
        patterns = sorted((name for name in table if "*" in name), key=lambda name: -len(name))
        self.patterns = [(_as_regex(name), table[name]) for name in patterns]

    def of(self, spec_or_name: str) -> Price | None:
        """The price of a SPEC's model: as in the table (a whole name first, then the longest
        pattern), nothing for a model that runs here, None where nobody knows."""
        model, local = _model(spec_or_name)
        if model in self.table:
            return self.table[model]
        for pattern, price in self.patterns:
            if pattern.fullmatch(model):
                return price
        return FREE if local else None


def _as_regex(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


def _model(spec: str) -> tuple[str, bool]:
    """What stands for the model in a SPEC or a backend's name, and whether it runs here."""
    kind, colon, rest = spec.partition(":")
    if not colon or "/" in kind or kind.startswith("."):
        return spec, True
    if kind == "prompted":
        return _model(rest)
    if kind != "openai":
        return rest, True
    model, at, urls = rest.rpartition("@http")
    if not at:
        return rest, False
    return model, all(
        _is_here(f"http{url}" if n == 0 else url) for n, url in enumerate(urls.split(","))
    )


def _is_here(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # no URL; whoever opens it says so
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def own_prices() -> Path:
    """Where a person's own prices are looked for: `~/.config/userlm_synth/prices.yaml`."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    folder = base if base.is_absolute() else Path.home() / ".config"
    return folder / "userlm_synth" / "prices.yaml"


def load_prices(path: Path | None) -> Prices:
    """The shipped prices, over them a person's own, over these the file given (if any).

    Raises `Problems` with file and key for whatever is wrong in one of the files.
    """
    files = [Path(__file__).with_name("prices.yaml"), own_prices(), path]
    table: dict[str, Price] = {}
    for file in files:
        if file is not None and (file.is_file() or file is path):
            table |= _read_prices(file)
    return Prices(table)


def _read_prices(path: Path) -> dict[str, Price]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{path}{line}: not YAML: {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict | None):
        raise UserError(f"{path}: is not a mapping; write a line for each model, {EXAMPLE}")
    table = {str(name): entry for name, entry in (data or {}).items()}
    problems = [f"{path}: {line}" for name in table for line in _faults(name, table[name])]
    if problems:
        raise Problems(problems)
    return {
        name: Price(**{key: float(entry[key]) for key in entry}) for name, entry in table.items()
    }


EXAMPLE = "as in `my-model: {read: 0.15, written: 0.60}` (USD a million tokens)"


def _faults(name: str, entry: Any) -> Iterator[str]:
    """What is wrong with a model's entry, each with its key."""
    if not isinstance(entry, dict):
        yield f"{name}: {entry!r} is not a mapping; write it {EXAMPLE}"
        return
    for key, value in entry.items():
        if key not in FIELDS:
            yield f"{name}.{key}: no such key; there are: {', '.join(FIELDS)}"
        elif _amount(value) is None:
            yield f"{name}.{key}: {value!r} is not a number of 0 or more; write it {EXAMPLE}"
    for key in ("read", "written"):
        if key not in entry:
            yield f"{name}.{key}: is missing; write it {EXAMPLE}"
    read, cached = _amount(entry.get("read")), _amount(entry.get("cached"))
    if read is not None and cached is not None and cached > read:
        yield f"{name}.cached: {cached:g} is above {name}.read ({read:g}), the most of a token read"


def _amount(value: Any) -> float | None:
    """A finite number of 0 or more, also where YAML took it for text (`3e-1`)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def check_budgets(
    budgets: Mapping[str, float | None],
    prices: Mapping[str, Price | None],
    *,
    users: Sequence[str],
    assistant: str,
) -> None:
    """A budget needs the price of every model that it pays for; `prices` and models by SPEC.

    Raises `Problems`, one line for each price that is missing.
    """
    payers = {"user": users, "assistant": [assistant], "all": [*users, assistant]}
    problems = [
        f"{BUDGETS[side]}: {spec} has no price; add `{_model(spec)[0]}: {{read: ..., written: "
        f"...}}` (USD a million tokens) to {own_prices()} or to a file named by generate.prices"
        for side, specs in payers.items()
        if budgets.get(side) is not None
        for spec in dict.fromkeys(specs)
        if prices[spec] is None
    ]
    if problems:
        raise Problems(problems)
