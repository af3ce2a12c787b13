"""Precision and recall of the privacy scan on a planted test set, beside other scanners.

    python benchmarks/privacy.py [--each 200] [--seed 0]

Secrets and personal data are made here from what providers, ISO and national numbering plans
document, set into sentences of several languages and into code; hard negatives (versions, dates,
ISBNs, prices, hashes, order numbers, ...) are set into the same kind of sentence. Found means that
every character of the planted text is covered. A finding that touches nothing planted is false.
Others run where they are installed (`pip install detect-secrets scrubadub presidio-analyzer`), with
no model and nothing from the network: detect-secrets is for keys alone, scrubadub and Presidio's
pattern recognizers for personal data. With Faker installed, a second set is of its values,
made by other people than the detector's. With USERLM_SYNTH_DATA set, the findings in
the real texts of that folder are counted too.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import platform
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from planted_secrets import FORMS, NEGATIVES, POSITIVES, planted

from userlm_synth.privacy import find

LOCALES = (
    "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "en_US", "pt_BR", "ru_RU",
    "zh_CN", "ja_JP", "ko_KR", "en_IN", "tr_TR", "en_AU",
)  # fmt: skip
PERSONAL = ("EMAIL", "PHONE", "CARD", "IBAN", "IP")
Span = tuple[int, int]
Scanner = Callable[[str], list[Span]]


opened = ExitStack()


def single_regex() -> Scanner:
    """What one writes first: one regular expression, no checks."""
    pattern = re.compile(
        r"[\w.+-]+@[\w-]+\.[\w.]+|(?:\d{1,3}\.){3}\d{1,3}|\+?\d[\d ().-]{7,}\d"
        r"|[A-Z]{2}\d{2}[A-Z0-9 ]{11,30}|(?:sk|pk|ghp|gho|hf|npm|xox.|AKIA|AIza)[-_]?[\w-]{16,}"
        r"|eyJ[\w.-]+|-----BEGIN[\s\S]+?-----END[^-]+-----"
        r"|(?i:password|secret|token|api_key)\s*[:=]\s*\S+"
    )
    return lambda text: [match.span() for match in pattern.finditer(text)]


def detect_secrets() -> Scanner:
    """Yelp's detect-secrets with its default plugins, line by line."""
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import default_settings

    def spans(text: str) -> list[Span]:
        found, at = [], 0
        for line in text.splitlines(keepends=True):
            for secret in scan_line(line):
                start = line.find(secret.secret_value or "\0")
                if start >= 0:
                    found.append((at + start, at + start + len(secret.secret_value or "")))
            at += len(line)
        return found

    opened.enter_context(default_settings())
    return spans


def scrubadub() -> Scanner:
    """scrubadub's detectors that need no model."""
    import scrubadub as package

    scrubber = package.Scrubber(locale="en_US")
    return lambda text: [(filth.beg, filth.end) for filth in scrubber.iter_filth(text)]


def presidio() -> Scanner:
    """Presidio's pattern recognizers for the same kinds, without its language model."""
    from presidio_analyzer import predefined_recognizers as known

    logging.disable()  # it says that it cannot fetch the list of domains, and takes its own

    names = ("Email", "Phone", "CreditCard", "Iban", "Ip")
    recognizers = [getattr(known, f"{name}Recognizer")() for name in names]
    return lambda text: [
        (result.start, result.end)
        for recognizer in recognizers
        for result in recognizer.analyze(text, recognizer.supported_entities, None) or ()
    ]


def scored(scan: Scanner, cases: list[tuple[str, str, Span]]) -> tuple[Counter[str], int, int]:
    """Found by kind, findings that touch what was planted, findings that do not."""
    found: Counter[str] = Counter()
    true = false = 0
    for kind, text, (start, end) in cases:
        spans = sorted(scan(text))
        touching = [one for one in spans if one[0] < end and one[1] > start]
        true, false = true + len(touching), false + len(spans) - len(touching)
        at = start
        for low, high in touching:
            at = max(at, high) if low <= at else at
        found[kind] += end > start and at >= end
    return found, true, false


def rate(scan: Callable[[str], object], texts: list[str], seconds: float = 2.0) -> float:
    """Texts a CPU-second."""
    done, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        for text in texts[:100]:
            scan(text)
        texts = texts[100:] + texts[:100]
        done += min(100, len(texts))
    return done / spent


def ours(cases: list[tuple[str, str, Span]]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """By kind: planted and found under the right name, findings that are right, all findings."""
    hits: Counter[str] = Counter()
    right: Counter[str] = Counter()
    every: Counter[str] = Counter()
    for kind, text, (start, end) in cases:
        for one in find(text):
            every[one.kind] += 1
            touches = one.start < end and one.end > start and one.kind == kind
            right[one.kind] += touches
            hits[kind] += touches and one.start <= start and one.end >= end
    return hits, right, every


def real_texts(folder: Path) -> Iterable[tuple[str, str]]:
    """(file, message) of every text in the data folder."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            todo = [json.loads(line)]
            while todo:
                value = todo.pop()
                if isinstance(value, str) and len(value) > 15:
                    yield path.name, value
                elif isinstance(value, (list, dict)):
                    todo += value.values() if isinstance(value, dict) else value


def of_faker(each: int) -> list[tuple[str, str, Span]]:
    """Cases by somebody else's generator, whose phone numbers are often in no country's plan."""
    from faker import Faker

    Faker.seed(0)
    makers: list[tuple[str, str, Callable[[], str]]] = []
    for locale in LOCALES:
        fake = Faker(locale)
        makers += [
            ("e-mail", "Anna, {x}, Berlin", fake.email),
            ("phone, labelled", "Call me at {x} please.", fake.phone_number),
            ("phone, bare", "Anna, {x}, Berlin", fake.phone_number),
        ]
    makers += [("IBAN", "Pay to {x} now", Faker(one).iban) for one in LOCALES[:7]]
    fake = Faker()
    makers += [
        ("card", "Pay with {x} now", fake.credit_card_number),
        ("IPv4", "It came from {x} again", fake.ipv4_public),
        ("IPv6", "It came from {x} again", fake.ipv6),
    ]
    cases = []
    for kind, sentence, make in makers:
        for _ in range(each):
            value, start = make(), sentence.index("{x}")
            cases.append((kind, sentence.replace("{x}", value), (start, start + len(value))))
    return cases


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def print_recall(cases: list[tuple[str, str, Span]], scanners: dict[str, Scanner]) -> None:
    """Recall by kind on values of Faker's."""
    planted_of = Counter(kind for kind, _, _ in cases)
    found = {name: scored(scan, cases)[0] for name, scan in scanners.items()}
    print(f"\n| recall on Faker's values | {' | '.join(found)} |")
    print("| --- " * (len(found) + 1) + "|")
    for kind, count in planted_of.items():
        shares = " | ".join(share(one[kind], count) for one in found.values())
        print(f"| {kind} ({count:,}) | {shares} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--misses", action="store_true", help="print what went wrong")
    options = parser.parse_args()
    cases = planted(options.each, random.Random(options.seed))
    plain = [text for kind, text, _ in cases if kind == "plain"]
    sorts = len({*NEGATIVES, *FORMS})
    print(f"{platform.machine()}, Python {platform.python_version()}; {options.each} texts of each")
    print(f"of {len(POSITIVES)} kinds and of each of {sorts} sorts of hard negatives\n")
    hits, right, every = ours(cases)
    print("| kind | recall | precision |\n| --- | --- | --- |")
    for kind in POSITIVES:
        print(f"| {kind} | {share(hits[kind], options.each)} | {share(right[kind], every[kind])} |")
    total = len(POSITIVES) * options.each
    print(f"| **all** | {share(hits.total(), total)} | {share(right.total(), every.total())} |\n")
    print("| scanner | personal data | keys and secrets | precision | messages a CPU-second |")
    print("| --- " * 5 + "|")
    scanners: dict[str, Callable[[], Scanner]] = {
        "userlm_synth": lambda: lambda text: [(one.start, one.end) for one in find(text)],
        "one regular expression": single_regex, "detect-secrets": detect_secrets,
        "scrubadub": scrubadub, "Presidio (patterns)": presidio,
    }  # fmt: skip
    made: dict[str, Scanner] = {}
    for name, make in scanners.items():
        try:
            made[name] = scan = make()
        except ImportError:
            print(f"| {name} | not installed | | | |")
            continue
        found, true, false = scored(scan, cases)
        personal = sum(found[kind] for kind in PERSONAL)
        keys = sum(found[kind] for kind in POSITIVES if kind not in PERSONAL)
        print(
            f"| {name} | {share(personal, len(PERSONAL) * options.each)} "
            f"| {share(keys, total - len(PERSONAL) * options.each)} "
            f"| {share(true, true + false)} | {rate(scan, plain):,.0f} |"
        )
    with suppress(ImportError):
        print_recall(of_faker(options.each // 10), made)
    if options.misses:
        for kind, text, (start, end) in cases:
            spans = [(one.kind, text[one.start : one.end]) for one in find(text)]
            if spans != ([(kind, text[start:end])] if end > start else []):
                print("\n", kind, repr(text[:300]), spans)
    if folder := os.environ.get("USERLM_SYNTH_DATA"):
        texts: Counter[str] = Counter()
        kinds: Counter[tuple[str, str]] = Counter()
        for file, text in real_texts(Path(folder)):
            texts[file] += 1
            for one in find(text):
                kinds[file, one.kind] += 1
                if options.misses:
                    print(file, one.kind, repr(text[max(0, one.start - 40) : one.end + 20]))
        print("\n| real texts | texts | findings | a thousand texts |\n| --- | --- | --- | --- |")
        for file, count in texts.items():
            some = {kind: number for (name, kind), number in kinds.items() if name == file}
            listed = ", ".join(f"{kind} {number}" for kind, number in some.items()) or "none"
            print(f"| {file} | {count:,} | {listed} | {1000 * sum(some.values()) / count:.2f} |")


if __name__ == "__main__":
    with opened:
        main()
