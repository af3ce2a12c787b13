"""Phone numbers, by the numbering plans of Google's libphonenumber (`phonenumbers`).

Where a message comes from is rarely known, so three ways in, from measuring on planted and human
text (`benchmarks/privacy.py`):
- international (+49 171 1234567): valid, or of a possible length and long or in groups;
- North American by its shape alone, (415) 555-2671 or 415-555-2671: examples use numbers that are
  in no plan;
- national, valid in one of `REGIONS`: after a word like "phone" or "call"; without one, only in
  groups that open with 0 or a bracket (and some as clear), and Chinese mobile numbers after Chinese
  text. A mere row of digits is an order number more often.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from userlm_synth.privacy.finding import Finding

SEPARATORS = " ().\\-/\u00a0\u2010-\u2013"
#: All digits that stand close together, with an opening + or bracket.
RUN = re.compile(rf"(?:\(?\+|\()?\d(?:[{SEPARATORS}]{{0,3}}\d)+")
#: Signs that the digits are part of something else: a word, a decimal, a price, a sum.
BEFORE = re.compile(r"(?:[0-9A-Za-z_@#$€£¥%\\^+-]|\d[.,/(])\Z")
AFTER = re.compile(r"[0-9A-Za-z_%°€$£]|[.,:]\d|\s?[+*=^]\s?\d|-[A-Za-z]")
NANP = re.compile(
    r"(?<![\w.#/])(?<!\d[ -])(?:(?:\+?1|001)[ .-]?)?(?:\([2-9]\d\d\)[ -]?\d{3}[ .-]\d{4}"
    r"|(?:[2-9]\d\d|123)([.-])\d{3}\1\d{4})(?![0-9A-WYZa-df-wyz_]|[.-]\d)",
    re.ASCII,
)
GROUPED = re.compile(
    r"\(?0\d{1,4}\)?(?:[ .\-/]{1,3}\d{2,8}){1,5}|\(\d{2,5}\)(?:[ -]{1,2}\d{2,5}){1,3}"
    r"|8[ -]?\(\d{3}\)[ -]?\d{3}-\d\d-\d\d|[1-9]\d 9?\d{4}-\d{4}"
)
LOCAL = re.compile(r"\d{3}[-. ]\d{4}")  # North American, without its area code
TEN = re.compile(r"[2-9]\d\d[ .-]?[2-9]\d\d[ .-]?\d{4}")  # North American, in no plan too
CHINESE = re.compile(r"1[3-9]\d{9}")  # a mobile number, always written so
HAN = re.compile(r"[\u4e00-\u9fff]")
EXTENSION = re.compile(r" ?(?:x|ext\.?|extension)[ .]?\d{1,6}(?![0-9A-Za-z])", re.IGNORECASE)
MOST = 15  # digits (ITU E.164)
WINDOW = 40  # characters before a number in which a label counts
LABEL = re.compile(
    r"(?i)(?<!\[)(?:\b(?:(?:tele|i|smart|cell|mobile ?)?phones?|tel|mobile|cell|call(?:ing|ed)?|"
    r"text(?:ing)?|dial(?:ing)?|ring|fax|whatsapp|telegram|viber|sms|hotline|contact|"
    r"reach(?:able)?|telefon\w*|handy(?:nummer)?|mobil\w*|rufnummer|anrufen|ruf|erreichbar|"
    r"t[ée]l[ée]phone\w*|t[ée]l|portable|appel\w*|joindre|joignable|tel[eé]fono|telefone|celular|"
    r"m[oó]vil|ll[aá]m\w+|ligue|ligar|cellulare|chiam\w+|bel|bellen|тел|telp|telepon|nomor|ara|"
    r"zadzwo\w+|điện thoại|gọi|sđt)\b|телефон|звон|мобильн|电话|電話|手机|手機|联系|聯|携帯|전화|"
    r"연락|휴대폰|هاتف|جوال|تلفن|موبایل|اتصل|फ़ोन|फोन|मोबाइल)"
)
OTHER = re.compile(
    r"(?i)\b(?:orders?|invoice|ticket|case|code|zip|id|isbn|issn|ref\w*|account|serial|version|"
    r"error|model|part|page|pin|year|in|size|about|roughly|bestell\w*|rechnung\w*)\b[^\d\n]{0,12}\Z"
    r"|\([^)]{0,20}\Z"
)
REGIONS = (
    "US", "GB", "DE", "FR", "ES", "IT", "BR", "RU", "CN", "JP", "IN", "KR", "MX", "TR", "ID", "VN",
    "NL", "PL", "UA", "AU", "CA", "PT", "BE", "CH", "AT", "SE", "NO", "DK", "FI", "IE", "GR", "CZ",
    "RO", "HU", "IL", "EG", "SA", "AE", "IR", "PK", "BD", "NG", "ZA", "KE", "MA", "TH", "PH", "MY",
    "SG", "HK", "TW", "AR", "CO", "CL", "PE", "NZ",
)  # fmt: skip


def phones(text: str) -> Iterator[Finding]:
    """Phone numbers, with their extensions."""
    for run in RUN.finditer(text):
        start, end = run.span()
        digits = sum(map(str.isdecimal, run[0]))
        if digits < 7:
            continue
        spans = [match.span() for match in NANP.finditer(text, start, end)]
        if not spans and digits <= MOST + 4 and not BEFORE.search(text[max(0, start - 2) : start]):
            start += run[0][0] == "(" and ")" not in run[0]
            spans = _planned(text, start, end)
        for start, end in spans:
            extension = EXTENSION.match(text, end)
            yield Finding("PHONE", start, extension.end() if extension else end)


def _planned(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The part of the run that a country's plan or a label makes a phone number, if any."""
    line = text[max(0, start - WINDOW) : start].rpartition("\n")[2]
    label = LABEL.search(line)
    labelled = label is not None and not OTHER.search(line, label.end())
    if CHINESE.fullmatch(text, start, end) and HAN.search(line) and not OTHER.search(line):
        return [(start, end)]
    for stop in _stops(text, start, end):
        stuck = AFTER.match(text, stop) and not EXTENSION.match(text, stop)
        if not stuck and _is_phone(text[start:stop], labelled):
            return [(start, stop)]
    return []


def _stops(text: str, start: int, end: int) -> list[int]:
    """The run's end, and where it ends without its last one or two groups ("... 12 people")."""
    cuts = [match.start() for match in re.finditer(r"(?<=\d)[ \u00a0]", text[start:end])][-2:]
    return [end, *(start + cut for cut in reversed(cuts))]


def _is_phone(text: str, labelled: bool) -> bool:
    groups = len(re.findall(r"\d+", text))
    digits = sum(map(str.isdecimal, text))
    if "+" in text[:2]:
        return _fits(text, None, possible=groups > 2 or digits >= 10)
    if text.startswith("00") and (labelled or groups > 2):
        return _fits(f"+{text[2:]}", None, possible=False)
    if labelled:
        if digits < 9 and groups < 2:
            return False
        known = LOCAL.fullmatch(text) or TEN.fullmatch(text)
        return bool(known) or any(_fits(text, region) for region in REGIONS)
    grouped = 9 <= digits <= 12 and GROUPED.fullmatch(text)
    return bool(grouped) and any(_fits(text, region) for region in REGIONS)


def _fits(text: str, region: str | None, *, possible: bool = False) -> bool:
    """A valid number of the plan; or of a possible length, which is less."""
    import phonenumbers

    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return False
    if possible:
        return phonenumbers.is_possible_number(number)
    return phonenumbers.is_valid_number(number)
