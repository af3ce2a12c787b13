"""Keys and tokens that say whose they are: the providers' documented prefixes, lengths, checksums.

Each rule has a needle that its finding must contain; a text without it costs one substring test.
No rule can start again inside of what it has read (a look-behind of its own characters), so time
is linear in the text.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from userlm_synth.privacy.finding import Finding

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DISTINCT = 8  # characters that differ; "sk-xxxxxxxx..." stands for a key and is none


def varied(token: str) -> bool:
    """Not a row of a few characters, as placeholders are."""
    return len(set(token)) >= DISTINCT and "xxxx" not in token.lower()


def has_crc32(token: str) -> bool:
    """GitHub's and npm's form: 30 characters, then their CRC32 in six digits of base 62.

    https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/
    """
    body = token.partition("_")[2]
    sum_, digits = zlib.crc32(body[:30].encode()), ""
    while sum_:
        sum_, digit = divmod(sum_, 62)
        digits = BASE62[digit] + digits
    return digits.rjust(6, "0") == body[30:]


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""


def has_jwt_header(token: str) -> bool:
    """The first part is JSON with the algorithm in it (RFC 7515)."""
    try:
        header = json.loads(_decoded(token.partition(".")[0]))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def has_discord_id(token: str) -> bool:
    """The first part is the bot's number in base 64."""
    return _decoded(token.partition(".")[0]).isdigit()


def has_both_cases(token: str) -> bool:
    """Capitals and small letters, as in a random token; a name has one of them."""
    return varied(token) and token.lower() != token != token.upper()


def has_key_body(block: str) -> bool:
    """A PEM block with a key in it, not three dots."""
    return re.search(r"[A-Za-z0-9+/]{32}", block) is not None


class Rule(NamedTuple):
    """One form of one provider's secrets."""

    kind: str
    needle: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool]


def _rule(kind: str, needle: str, pattern: str, check: Callable[[str], bool] = varied) -> Rule:
    return Rule(kind, needle, re.compile(rf"(?<![\w-]){pattern}(?![A-Za-z0-9])", re.ASCII), check)


PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[^-]*(?:-(?!----)[^-]*)*-----END [A-Z0-9 ]{0,40}-----|(?:\s*[A-Za-z0-9+/=\\]{16,})*)"
)
# It has no needle, so it opens with the few letters that it can open with, which is fast.
DISCORD = re.compile(
    r"[MNO](?<![\w-][MNO])[\w-]{23,27}\.[\w-]{6}\.[\w-]{27,40}(?![A-Za-z0-9])", re.ASCII
)
#: By a character that all of the group's needles contain.
RULES: dict[str, tuple[Rule, ...]] = {
    "_": (
        _rule("GITHUB_TOKEN", "gh", r"gh[pousr]_[A-Za-z0-9]{36}", has_crc32),
        _rule("GITHUB_TOKEN", "ghs_", r"ghs_[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),
        _rule("GITHUB_TOKEN", "github_pat_", r"github_pat_\w{82}"),
        _rule("NPM_TOKEN", "npm_", r"npm_[A-Za-z0-9]{36}", has_crc32),
        _rule("HUGGING_FACE_TOKEN", "hf_", r"hf_[A-Za-z0-9]{34,40}", has_both_cases),
        _rule("STRIPE_KEY", "k_", r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,250}"),
        _rule("STRIPE_KEY", "whsec_", r"whsec_[A-Za-z0-9+/]{32,}"),
        _rule("GROQ_KEY", "gsk_", r"gsk_[A-Za-z0-9]{52}"),
        _rule("REPLICATE_TOKEN", "r8_", r"r8_[A-Za-z0-9]{37,40}"),
        _rule("DIGITALOCEAN_TOKEN", "_v1_", r"do[opr]_v1_[a-f0-9]{64}"),
        _rule("SHOPIFY_TOKEN", "shp", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    ),
    "-": (
        _rule("ANTHROPIC_KEY", "sk-ant-", r"sk-ant-[a-z]{2,10}\d\d-[\w-]{80,120}"),
        _rule("OPENROUTER_KEY", "sk-or-", r"sk-or-v1-[a-f0-9]{64}"),
        _rule(
            "OPENAI_KEY", "sk-", r"sk-(?:(?:proj|svcacct|admin)-[\w-]{40,200}|[A-Za-z0-9]{32,64})"
        ),
        _rule("XAI_KEY", "xai-", r"xai-[A-Za-z0-9]{80}"),
        _rule("PERPLEXITY_KEY", "pplx-", r"pplx-[A-Za-z0-9]{40,60}"),
        _rule("GOOGLE_KEY", "GOCSPX-", r"GOCSPX-[\w-]{28}"),
        _rule(
            "GITLAB_TOKEN", "gl",
            r"gl(?:pat|ptt|dt|rt|rtr|cbt|oas|ft|soat|imt|agent|ffct)-[\w-]{20,300}"
            r"(?:\.[0-9a-z]{2}\.[0-9a-z]{9})?",
        ),
        _rule("SLACK_TOKEN", "xox", r"(?:xoxe\.)?xox[abeoprs]-\d[\w-]{20,250}"),
        _rule("SLACK_TOKEN", "xapp-", r"xapp-\d-[\w-]{30,250}"),
        _rule("PYPI_TOKEN", "pypi-Ag", r"pypi-Ag[\w-]{60,1000}"),
        Rule("PRIVATE_KEY", "PRIVATE KEY", PEM, has_key_body),
    ),
    ".": (
        _rule("SENDGRID_KEY", "SG.", r"SG\.[\w-]{16,32}\.[\w-]{16,64}", has_both_cases),
        _rule("GOOGLE_KEY", "ya29.", r"ya29\.[\w-]{30,2000}"),
        _rule("SLACK_WEBHOOK", "hooks.slack", r"hooks\.slack\.com/\w+/[\w/]{30,100}"),
        Rule("DISCORD_TOKEN", ".", DISCORD, has_discord_id),
        _rule("DISCORD_WEBHOOK", "/webhooks/", r"discord\w*\.com/api/webhooks/\d+/[\w-]{60,80}"),
        _rule("JWT", "eyJ", r"eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]+){0,3}", has_jwt_header),
    ),
    "A": (
        _rule("GOOGLE_KEY", "AIza", r"AIza[\w-]{35}"),
        _rule("AWS_ACCESS_KEY_ID", "A", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"),
        _rule("TELEGRAM_TOKEN", ":A", r"\d{8,10}:A[\w-]{34}"),
        _rule("AZURE_KEY", "AccountKey=", r"(?<=AccountKey=)[A-Za-z0-9+/]{86}=="),
        _rule(
            "AZURE_KEY", "==",
            r"(?<![+/])[A-Za-z0-9+/]{76}(?:APIM|ACDb|\+(?:ABa|AMC|ASt))[A-Za-z0-9+/]{5}[AQgw]==",
        ),
    ),
    "C": (_rule("TWILIO_KEY", "AC", r"AC[a-f0-9]{32}"),),
    "K": (_rule("TWILIO_KEY", "SK", r"SK[a-f0-9]{32}"),),
}  # fmt: skip
KINDS = tuple(dict.fromkeys(rule.kind for rules in RULES.values() for rule in rules))


def keys(text: str) -> Iterator[Finding]:
    """Keys and tokens of the providers in `RULES`."""
    for sign, rules in RULES.items():
        if sign not in text:
            continue
        for kind, needle, pattern, check in rules:
            if needle in text:
                for match in pattern.finditer(text):
                    if check(match[0]):
                        yield Finding(kind, *match.span())
