"""Facts about the privacy scan: what is found by form and checksum, and what is left alone."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.privacy import KINDS, find, find_in_record, redact, redact_record

ROOT = Path(__file__).resolve().parent.parent
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
HEX = "0123456789abcdef"


def drawn(alphabet: str, count: int, seed: int = 0) -> str:
    """The same letters in every run; no key of anybody's lies in this file."""
    return "".join(random.Random(seed).choices(alphabet, k=count))


def with_crc(prefix: str, body: str) -> str:
    """A token in GitHub's form; the sum by another way than the module's."""
    value = zlib.crc32(body.encode())
    return f"{prefix}_{body}" + "".join(BASE62[value // 62**n % 62] for n in reversed(range(6)))


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


JWT = ".".join([part(b'{"alg":"HS256","typ":"JWT"}'), part(b'{"sub":"1"}'), drawn(BASE62, 43)])
BODY = base64.b64encode(random.Random(0).randbytes(600)).decode()
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----"
SECRETS = {
    "OPENAI_KEY": f"sk-proj-{drawn(BASE62, 74)}T3Blbk" + f"FJ{drawn(BASE62, 74)}",
    "ANTHROPIC_KEY": f"sk-ant-api03-{drawn(BASE62, 93)}AA",
    "OPENROUTER_KEY": f"sk-or-v1-{drawn(HEX, 64)}",
    "XAI_KEY": f"xai-{drawn(BASE62, 80)}",
    "PERPLEXITY_KEY": f"pplx-{drawn(BASE62, 48)}",
    "GROQ_KEY": f"gsk_{drawn(BASE62, 52)}",
    "REPLICATE_TOKEN": f"r8_{drawn(BASE62, 37)}",
    "DIGITALOCEAN_TOKEN": f"dop_v1_{drawn(HEX, 64)}",
    "SHOPIFY_TOKEN": f"shpat_{drawn(HEX, 32)}",
    "GOOGLE_KEY": f"AIzaSy{drawn(BASE62, 33)}",
    "AWS_ACCESS_KEY_ID": f"AKIA{drawn(BASE62[10:36], 16)}",
    "GITHUB_TOKEN": with_crc("ghp", drawn(BASE62, 30)),
    "NPM_TOKEN": with_crc("npm", drawn(BASE62, 30)),
    "GITLAB_TOKEN": f"glpat-{drawn(BASE62, 20)}",
    "PYPI_TOKEN": f"pypi-AgEIcHlwaS5vcmc{drawn(BASE62, 140)}",
    "SLACK_TOKEN": f"xoxb-{drawn('123456789', 12)}-{drawn('123456789', 12)}-{drawn(BASE62, 24)}",
    "SLACK_WEBHOOK": f"hooks.slack.com/services/T{drawn(HEX, 9)}/B{drawn(HEX, 9)}/{drawn(HEX, 24)}",
    "STRIPE_KEY": f"sk_live_{drawn(BASE62, 24)}",
    "HUGGING_FACE_TOKEN": f"hf_{drawn(BASE62[10:], 34)}",
    "SENDGRID_KEY": f"SG.{drawn(BASE62, 22)}.{drawn(BASE62, 43)}",
    "TWILIO_KEY": f"SK{drawn(HEX, 32)}",
    "TELEGRAM_TOKEN": f"5123456789:AA{drawn(BASE62, 33)}",
    "DISCORD_TOKEN": f"{part(b'823456789012345678')}.{drawn(BASE62, 6)}.{drawn(BASE62, 27)}",
    "DISCORD_WEBHOOK": f"discord.com/api/webhooks/823456789012345678/{drawn(BASE62, 68)}",
    "AZURE_KEY": f"{drawn(BASE62, 76)}+ASt{drawn(BASE62, 5)}A==",
    "JWT": JWT,
    "PRIVATE_KEY": PEM,
    "EMAIL": "Jürgen.o'neill+news@mail.uni-köln.de",
    "PHONE": "+49 171 1234567",
    "CARD": "4111 1111 1111 1111",
    "IBAN": "GB82 WEST 1234 5698 7654 32",
    "IP": "81.2.69.160",
}
LABELLED = {
    "AWS_SECRET_KEY": ("aws_secret_access_key = ", drawn(BASE62 + "/+", 40)),
    "AZURE_KEY": ("AccountName=a;AccountKey=", drawn(BASE62, 86) + "=="),
    "SECRET": ('"api_key": "', drawn(HEX, 32)),
    "PASSWORD": ("пароль: ", "Montreal1976!"),
    "URL_CREDENTIALS": ("postgres://", "anna:Winter2024"),
}
#: Ordinary text that has nothing of it, a line each.
INNOCENT = """
version 1.2.3.4, v10.20.30.40, Chrome/126.0.64.127, section 3.14.15.92, release 81.2.69.160
127.0.0.1 0.0.0.0 192.168.1.20 10.1.2.3 172.16.0.9 255.255.255.0 8.8.8.8 ::1 fe80::1 2001:db8::1
52.95.110.0/24 is a network; 1.2.3.4 is a heading; 12:30:45 is a time; a::b::c is C++
2024-11-21 03:10:02, 21.11.2024, 11/21/2024 09:15, 20241121T031002Z, 1732158602, 1732158602123
ISBN 978-3-16-148410-0 or 0-306-40615-2, EAN 4006381333931, DOI 10.1000/182456789
$1,234,567.89 and 1.234.567,89 EUR and 12345678 yen; 52.520008, 13.404954; 3.14159265358979323846
order 4111111111111111 and order #415-555-2671, parcel 112-1234567-1234567, invoice INV-20241234
4111 1111 1111 1112 has no check digit, nor DE89 3704 0044 0532 0130 01, nor 1234567890123456
1 2 3 4 5 6 7 8 9 10 11 12 13, 1000 2000 3000 4000, 10-20-30-40-50, x = 1234567890 + 9876543210
d670460b4b4aece5915caf5c68d12f560a9fe3e4 and 550e8400-e29b-41d4-a716-446655440000
password = get_password(user1); if password == password2; API_KEY=your-api-key-goes-here-1234
api_key=os.environ['API_KEY1'], token = tokenizer.decode(ids[0]), max_tokens: 4096, pwd=$HOME/a1
@app.route, x@layer.weights, img@2x.png, react@18.2.0, git@github.com:a/b.git, a @ b, @anna
sk-circle-fade-dot-animation-loop-number-12, sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
https://user:password@host/, postgres://$USER:$PASS@db/app, https://a.com/x?id=1234567890123
-----BEGIN PRIVATE KEY----- ... -----END PRIVATE KEY----- eyJhbGciOi.not.json, key: words-in-a-row-2
""".strip().splitlines()


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("around", ["{}", "It is {}, right?", "(`{}`)", "这是{}。", "a\n{}\nb"])
def test_each_kind_is_found_whole_and_by_its_name(kind: str, around: str) -> None:
    text = around.replace("{}", SECRETS[kind])
    assert [(f.kind, text[f.start : f.end]) for f in find(text)] == [(kind, SECRETS[kind])]
    assert redact(text) == (around.replace("{}", f"[{kind}]"), Counter({kind: 1}))


@pytest.mark.parametrize("kind", LABELLED)
def test_a_label_gives_a_secret_away_and_stays(kind: str) -> None:
    label, secret = LABELLED[kind]
    after = "@db.acme.io/app" if kind == "URL_CREDENTIALS" else '" ;'
    assert redact(label + secret + after)[0] == f"{label}[{kind}]{after}"
    assert find(secret) == []


def test_every_kind_has_its_example_here() -> None:
    assert {*SECRETS, *LABELLED} == {*KINDS}


@pytest.mark.parametrize("line", INNOCENT)
def test_ordinary_numbers_code_and_placeholders_are_left_alone(line: str) -> None:
    assert [(one.kind, line[one.start : one.end]) for one in find(line)] == []


@pytest.mark.parametrize(
    "text",
    [
        "(415) 555-2671", "415-555-2671", "+1 555 123 4567", "+14155552671", "06 12 34 56 78",
        "0171 1234567", "030 / 49123456", "090-1234-5678", "(11) 91234-5678", "07911 123456",
    ],
)  # fmt: skip
def test_a_phone_number_in_its_countrys_groups_needs_no_label(text: str) -> None:
    assert redact(f"Anna, {text}, Berlin")[0] == "Anna, [PHONE], Berlin"


@pytest.mark.parametrize("text", ["01711234567", "171 1234567", "4155552671", "+1234567"])
def test_digits_in_a_row_or_in_no_plan_are_no_phone_number(text: str) -> None:
    assert find(f"Anna, {text}, Berlin") == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("call me at {} please", "4155552671"), ("我的电话{}", "13812345678"),
        ("Мой телефон: {}", "8 912 345 67 89"), ("Llámame al {}", "612345678"),
        ("call {}", "555-1234"), ("Tel. {}", "212-555-0147 ext. 12"),
        ("WhatsApp {}", "98765 43210"),
    ],
)  # fmt: skip
def test_a_label_makes_other_digits_a_phone_number(text: str, number: str) -> None:
    assert redact(text.replace("{}", number))[0] == text.replace("{}", "[PHONE]")
    assert find(f"The code of this order is {number.replace('-', '')}") == []


def test_a_number_of_the_same_form_without_its_checksum_is_none() -> None:
    token = SECRETS["GITHUB_TOKEN"]
    wrong = token[:-1] + ("1" if token[-1] != "1" else "2")
    assert [one.kind for one in find(token)] == ["GITHUB_TOKEN"]
    assert find(wrong) == []
    assert find(f"{part(b'no json at all')}.{JWT.partition('.')[2]}") == []
    assert find("GB83 WEST 1234 5698 7654 32") == []


def test_githubs_published_example_has_the_checksum_that_we_compute() -> None:
    example = "ghp" + "_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ" + "0mLq17"  # revoked by its owner
    assert [one.kind for one in find(example)] == ["GITHUB_TOKEN"]


def test_overlapping_findings_are_one_of_the_kind_known_best() -> None:
    text = f"api_key: {SECRETS['GROQ_KEY']}"
    assert redact(text) == ("api_key: [GROQ_KEY]", Counter(GROQ_KEY=1))
    assert redact(f"Bearer {JWT}") == ("Bearer [JWT]", Counter(JWT=1))
    assert redact("https://anna:Winter2024@mail.acme.io/x")[0] == (
        "https://[URL_CREDENTIALS]@mail.acme.io/x"
    )


def test_a_secret_that_another_one_covered_is_found_in_the_next_round() -> None:
    card = SECRETS["CARD"].replace(" ", "")
    joined = f"anna@acme.io@{card}"
    assert card not in redact(f"{SECRETS['IBAN']}, {joined} {card}")[0]


pieces = st.one_of(
    st.sampled_from([*SECRETS.values(), *("".join(pair) for pair in LABELLED.values()), *INNOCENT]),
    st.sampled_from(
        [" ", "\n", ", ", "@", ": ", "-", ".", "/", "(", "+", "0", "call ", "password="]
    ),
    st.text(max_size=12),
    st.from_regex(r"[\d ().+-]{4,20}", fullmatch=True),
)


@given(st.lists(pieces, max_size=8).map("".join))
def test_findings_are_in_order_without_overlap_and_redacting_again_changes_nothing(
    text: str,
) -> None:
    ends = [0]
    for kind, start, end in find(text):
        assert kind in KINDS
        assert ends[-1] <= start < end <= len(text)
        ends.append(end)
    clean, counts = redact(text)
    assert redact(clean) == (clean, Counter())
    assert counts.total() >= len(ends) - 1


@given(st.sampled_from([*SECRETS]), st.lists(pieces, max_size=4), st.lists(pieces, max_size=4))
def test_a_planted_secret_never_survives(kind: str, before: list[str], after: list[str]) -> None:
    secret = SECRETS[kind]
    clean, counts = redact(f"{''.join(before)} . {secret} , {''.join(after)}")
    assert f" . {secret} , " not in clean
    assert counts


@given(st.text(st.characters(exclude_categories=("Nd",), exclude_characters="@:=")))
def test_text_without_digits_and_signs_is_unchanged(text: str) -> None:
    assert redact(text) == (text, Counter())


@pytest.mark.parametrize(
    "piece",
    [
        "a", "@", "1", "-.", "1-", "1 ", "a@", "a.", "://", "sk-", "eyJ-", "eyJ.", "ghs_.", "xox1-",
        "2a02:", "1.2.3.", "DE89", "password=", "secret: ", "-----BEGIN PRIVATE KEY-----", "+1 2 ",
    ],
)  # fmt: skip
def test_time_is_linear_in_hostile_text(piece: str) -> None:
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        start = time.process_time()
        find(text)
        return time.process_time() - start

    small = min(seconds(50_000) for _ in range(3))
    assert seconds(400_000) < 8 * small * 4 + 0.2  # quadratic would be 64 times


def test_a_message_with_nothing_in_it_costs_microseconds() -> None:
    text = ("Can you write me a short story about a dog and 3 cats? It is for my son. " * 5)[:300]
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(200):
            find(text)
        rounds.append((time.process_time() - start) / 200)
    assert min(rounds) < 100e-6  # about 12 on an idle core


def a_record() -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "mail anna@acme.io or bob@acme.io"},
        ],
        "intent": f"find out why {SECRETS['STRIPE_KEY']} fails",
        "persona": None,
        "metadata": {"notes": [{"from": SECRETS["IP"]}], "n": 3},
    }


def test_a_record_is_redacted_in_place_everywhere_and_counted() -> None:
    record = a_record()
    places = [(place, kind) for place, kind, _ in find_in_record(record)]
    assert places == [
        ("messages[1]", "EMAIL"), ("messages[1]", "EMAIL"), ("intent", "STRIPE_KEY"),
        ("metadata.notes[0].from", "IP"),
    ]  # fmt: skip
    assert redact_record(record) == Counter(EMAIL=2, STRIPE_KEY=1, IP=1)
    assert json.dumps(record) == json.dumps(
        {
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "mail [EMAIL] or [EMAIL]"},
            ],
            "intent": "find out why [STRIPE_KEY] fails",
            "persona": None,
            "metadata": {"notes": [{"from": "[IP]"}], "n": 3},
        }
    )
    assert find_in_record(record) == []


def test_the_shipped_world_has_nothing_of_it() -> None:
    files = sorted((ROOT / "userlm_synth" / "world" / "topics").glob("*.yaml"))
    assert len(files) == 12
    assert [find(path.read_text(encoding="utf-8")) for path in files] == [[]] * 12


@pytest.mark.parametrize("name", ["coffee", "topical"])
def test_real_conversations_raise_no_false_alarm(name: str) -> None:
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA is not set")
    with gzip.open(Path(folder) / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [one for line in lines for one in find_in_record(json.loads(line))]
    assert found == []
