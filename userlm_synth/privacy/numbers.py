"""Payment cards, bank accounts and addresses on the internet: digits that a checksum can prove.

Cards: issuer prefix and length, the usual grouping, Luhn (ISO/IEC 7812-1). IBAN: the country's
length, remainder 97 (ISO 13616). IP addresses: `ipaddress`, and only those that are in public use.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from userlm_synth.privacy.finding import Finding

# One separator throughout: 16 or 19 digits in fours, 4-6-5 (American Express), 4-6-4 (Diners).
CARD = re.compile(
    r"(?<![0-9A-Za-z_.#])(?<!\d[ \u00a0,-])"
    r"(?:\d{13,19}|\d{4}([ \u00a0-])(?:\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{6}\1\d{4,5}))"
    r"(?![0-9A-Za-z_]|[.,-]\d)"
)
#: Issuer prefixes and the lengths of their numbers.
ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}(?:\d{3})?"  # Discover
    r"|3(?:0[0-5]|095|[689]\d)\d{11}|3(?:0[0-5]|[689]\d)\d{13}"  # Diners Club
    r"|35\d{14}|(?:1800|2131)\d{11}"  # JCB
    r"|62\d{14}(?:\d{3})?"  # UnionPay
    r"|220[0-4]\d{12}"  # Mir
    r"|(?:50(?:18|20|38)|5893|6304|6759|676[1-3])\d{9,15}"  # Maestro
)
#: What else sixteen digits may be; said just before them.
OTHER_NUMBER = re.compile(
    r"(?i)(?<![a-z])(?:order|invoice|tracking|imei|isbn|serial|ticket|transaction|reference|ref|id|uid|"
    r"timestamp|epoch|sku|ean|upc|parcel|shipment)\b[^\d\n]{0,15}\Z"
)
# Country and check digits; it opens with the digits, which are rarer than letters.
IBAN = re.compile(
    r"\d\d(?<=[A-Za-z]{2}\d\d)(?<![0-9A-Za-z][A-Za-z]{2}\d\d)(?=[ \u00a0-]?[0-9A-Za-z]{4})"
)
#: Lengths by country, from the IBAN registry (SWIFT).
LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD FK", 19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ DZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
IPV4 = re.compile(
    r"(?<![\w.-])(?<![\w.-]/)(?:\d{1,3}\.){3}\d{1,3}(?![\w%]|[.,]\d|-[0-9A-Za-z]|\.[A-Za-z])",
    re.ASCII,
)
VERSION = re.compile(
    r"(?i)(?:\bv|version|\bver\.?|release|build|firmware|driver|section|chapter|clause|§|figure|"
    r"\bfig\.?|update|upgraded?|protocol)\s{0,2}[:=]?\s{0,2}[\"'(`]?\Z"
)
#: Four small numbers with dots are a version or a section more often than an address.
SMALL = 50
ADDRESS = re.compile(r"(?i)\b(?:ip|ips|ipv4|ping|ssh|host|hosts|server|addr|address|dns)\b|://")
#: Resolvers that everybody writes about.
RESOLVERS = frozenset(
    {"1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "208.67.222.222", "208.67.220.220"}
)
WHOLE_IPV6 = re.compile(
    r"[0-9A-Fa-f](?<![\w:.].)[0-9A-Fa-f]{0,3}(?::[0-9A-Fa-f]{1,4}){7}(?![\w:])", re.ASCII
)
# Shortened ones: those in public use begin with 2 or 3 (2000::/3), and `a::b` is a name in C++.
IPV6 = re.compile(r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?!\w)", re.ASCII)


def luhn(digits: str) -> bool:
    """Luhn's check digit is right."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def cards(text: str) -> Iterator[Finding]:
    """Payment card numbers."""
    for match in CARD.finditer(text):
        digits = str(int(re.sub(r"\D", "", match[0])))  # plain ones, whatever the script
        if not ISSUERS.fullmatch(digits) or not luhn(digits):
            continue
        before = text[max(0, match.start() - 30) : match.start()]
        if match[1] or not OTHER_NUMBER.search(before):
            yield Finding("CARD", *match.span())


def ibans(text: str) -> Iterator[Finding]:
    """International bank account numbers, with or without spaces."""
    for match in IBAN.finditer(text):
        start = match.start() - 2
        length = LENGTHS.get(text[start : start + 2].upper())
        if not length:
            continue
        grouped = re.compile(rf"(?:[ \u00a0-]?[0-9A-Za-z]){{{length}}}(?![0-9A-Za-z])")
        whole = grouped.match(text, start)
        if whole and _remainder(re.sub(r"[ \u00a0-]", "", whole[0])) == 1:
            yield Finding("IBAN", *whole.span())


def _remainder(iban: str) -> int:
    if not 2 <= int(iban[2:4]) <= 98:
        return 0
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(letter, 36)) for letter in moved)) % 97


def _public(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def ipv4(text: str) -> Iterator[Finding]:
    """IPv4 addresses in public use; no versions, sections, networks or well-known resolvers."""
    for match in IPV4.finditer(text):
        before = text[max(0, match.start() - 40) : match.start()]
        if not _public(match[0]) or match[0] in RESOLVERS or VERSION.search(before):
            continue
        if match[0].endswith(".0") and text.startswith("/", match.end()):
            continue
        small = all(int(part) < SMALL for part in match[0].split("."))
        if not small or ADDRESS.search(before):
            yield Finding("IP", *match.span())


def ipv6(text: str) -> Iterator[Finding]:
    """IPv6 addresses in public use, and all that are written out: nothing else looks so."""
    if text.count(":") >= 7:
        for match in WHOLE_IPV6.finditer(text):
            if _public(match[0]) and re.search(r"[^:]{3}", match[0]):  # not EUI-64
                yield Finding("IP", *match.span())
    for match in IPV6.finditer(text):
        address = match[0] if match[0].endswith("::") else match[0].rstrip(":")
        if _public(address):
            yield Finding("IP", match.start(), match.start() + len(address))
