"""Secrets that only their label gives away: `password=...`, `"api_key": "..."`, `Bearer ...`.

The value has to look random (a secret) or strong (a password): code and documents are full of
`password = get_password()` and `API_KEY=your-key-here`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from userlm_synth.privacy.finding import Finding

KINDS = ("AWS_SECRET_KEY", "SECRET", "PASSWORD")
#: In lower case; a text without one of these has no labelled secret.
NEEDLES = (
    "passw", "secret", "token", "key", "passphrase", "pwd", "bearer", "basic ", "senha",
    "mot de passe", "contraseña", "пароль", "密码", "密碼", "パスワード", "비밀번호",
)  # fmt: skip
LABEL = re.compile(
    r"(?i)(?:(?P<password>passw(?:or[dt]|d)|passphrase|pwd|contraseña|mot de passe|senha|пароль|"
    r"密码|密碼|パスワード|비밀번호)|(?P<aws>secret[_ -]?access[_ -]?key|aws[_ -]?secret[_ -]?key)"
    r"|(?:api|access|auth|private|client|encryption|signing)[_ -]?key|secret(?:[_ -]?key)?|token)"
    r"\w{0,20}[\"'`\]*]{0,3}\s{0,3}(?:=>|:=|={1,2}|[:：]|\b(?:is|ist|est|es|это)\b|是|は)"
    r"\s{0,3}[\"'`*]{0,3}(?P<value>[^\s\"'`<>]{6,300})"
    r"|\b(?:bearer|basic)\s{1,3}(?P<bearer>[\w.~+/=-]{16,300})"
)
#: What stands for a value: names, references, calls, and other findings' placeholders.
NO_VALUE = re.compile(
    r"(?i)your|example|placeholder|change.?me|insert|dummy|redacted|passw|secret|xxxx|\*\*\*|\.\.\."
    r"|^[${(<\[]|^%(?:\w+%|[sd]\b|\()|\[[A-Z_]+\]|\(|://|^[a-z_]\w*(?:(?:\.|->|::)[a-z_]\w*)+\Z|^[a-z_]\w*\["
)
DISTINCT, SWITCHES = 8, 0.2


def kind_of(character: str) -> int:
    """0 digit, 1 capital, 2 small letter, 3 anything else."""
    if character.isdecimal():
        return 0
    return 1 if character.isupper() else 2 if character.isalpha() else 3


def is_random(value: str) -> bool:
    """Letters and digits well mixed: one character in five is of another kind than the last.

    Words in `my-service-key-v2` change kind rarely, base 62 and hex at every second character.
    """
    kinds = [kind for kind in map(kind_of, value) if kind != 3]
    switches = sum(one != following for one, following in pairwise(kinds))
    mixed = 0 in kinds and len(set(kinds)) > 1
    return mixed and len(set(value)) >= DISTINCT and switches >= SWITCHES * len(kinds)


def is_strong(value: str) -> bool:
    """A letter and a digit, and seven characters or else three kinds of them."""
    kinds = set(map(kind_of, value))
    return 0 in kinds and bool(kinds & {1, 2}) and (len(value) >= 7 or len(kinds) >= 3)


def labelled(text: str) -> Iterator[Finding]:
    """Passwords and secrets with a label before them."""
    lowered = text.lower()
    if not any(needle in lowered for needle in NEEDLES):
        return
    for match in LABEL.finditer(text):
        group = "bearer" if match["bearer"] else "value"
        value = match[group].rstrip(".,;:)]}\\*&")
        aws = match["aws"] and len(value) == 40
        kind = "PASSWORD" if match["password"] else "AWS_SECRET_KEY" if aws else "SECRET"
        good = is_strong(value) if kind == "PASSWORD" else len(value) >= 16 and is_random(value)
        if good and (aws or not NO_VALUE.search(value)):
            yield Finding(kind, match.start(group), match.start(group) + len(value))
