"""The planted test set of `privacy.py`: what people and programs write, made from a seed.

Nothing here is shared with the detector. Keys are laid out as their providers document them, with
true checksums; phone numbers by each country's conventions; none belongs to anybody on purpose.
"""

from __future__ import annotations

import base64
import json
import random
import string
import uuid
import zlib
from collections.abc import Callable

DIGITS, LOWER, UPPER = string.digits, string.ascii_lowercase, string.ascii_uppercase
ALNUM = DIGITS + UPPER + LOWER
URLSAFE = ALNUM + "-_"
BASE64 = ALNUM + "+/"
HEX = "0123456789abcdef"
Make = Callable[[random.Random], str]


def some(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choices(alphabet, k=count))


def filled(rng: random.Random, form: str) -> str:
    """# is any digit, N is 2 to 9."""
    digits = {"#": DIGITS, "N": "23456789"}
    return "".join(rng.choice(digits[sign]) if sign in digits else sign for sign in form)


# ---- personal data ---------------------------------------------------------------------------

FIRST = [
    "anna", "john", "maria", "wei", "ahmed", "olga", "pierre", "sofia", "kenji", "fatima",
    "lars", "joão", "zoë", "müller",
]  # fmt: skip
LAST = [
    "smith", "garcia", "chen", "müller", "ivanova", "okafor", "rossi", "tanaka", "silva",
    "novak", "o'brien", "yilmaz",
]  # fmt: skip
HOSTS = [
    "gmail.com", "yahoo.co.uk", "hotmail.com", "outlook.de", "gmx.net", "mail.ru", "qq.com",
    "163.com", "uol.com.br", "orange.fr", "proton.me", "icloud.com", "uni-heidelberg.de",
    "cs.stanford.edu", "acme-corp.io", "firma.com.pl", "naver.com", "yandex.ru",
    "students.unimelb.edu.au", "example.org",
]  # fmt: skip


def email(rng: random.Random) -> str:
    first, last = rng.choice(FIRST), rng.choice(LAST)
    forms = (
        f"{first}.{last}", f"{first}{rng.randrange(1, 2000)}", f"{first[0]}{last}",
        f"{last}_{first}", f"{first}+news", f"{first}-{last}", first,
        f"{first.title()}.{last.title()}",
    )  # fmt: skip
    return f"{rng.choice(forms)}@{rng.choice(HOSTS)}"


#: International and national forms, as each country writes them.
PHONES = {
    "+1 (N##) N##-####": "en", "(N##) N##-####": "en", "N##-N##-####": "en", "N##.N##.####": "en",
    "+44 20 7### ####": "en", "07### ######": "en-label", "020 7### ####": "en",
    "+49 151 ########": "de", "0171 #######": "de", "0171/#######": "de", "030 / 4#######": "de",
    "06 1# ## ## ##": "fr", "+33 6 1# ## ## ##": "fr", "061#######": "fr-label",
    "+34 61# ## ## ##": "es", "61# ### ###": "es-label", "+52 55 5### ####": "es",
    "+39 333 ### ####": "it", "347 ### ####": "it-label", "(11) 9N###-####": "pt",
    "+55 11 9N###-####": "pt", "+7 916 ###-##-##": "ru", "8 (916) ###-##-##": "ru-label",
    "+86 138 #### ####": "zh", "138########": "zh-label", "090-N###-####": "ja",
    "010-N###-####": "ko", "+91 98### #####": "en", "98### #####": "en-label",
    "04## ### ###": "en", "+61 4## ### ###": "en", "+90 532 ### ## ##": "tr",
    "0812-####-####": "id", "+234 803 ### ####": "en", "+48 601 ### ###": "pl",
}  # fmt: skip
CALL = {
    "en": ["Please call me at {x} after 5 pm.", "My phone is {x}, thanks!", "Text {x} if late."],
    "de": ["Ruf mich bitte unter {x} an.", "Meine Handynummer: {x}", "Tel. {x}"],
    "fr": ["Appelez-moi au {x} demain.", "Mon téléphone : {x}.", "Tél. {x}"],
    "es": ["Llámame al {x} por favor.", "Mi teléfono es {x}."],
    "it": ["Il mio telefono è {x}.", "Chiamami al {x} stasera."],
    "pt": ["Meu celular é {x}.", "Telefone: {x}"],
    "ru": ["Мой телефон {x}, звоните.", "Позвоните мне: {x}", "тел. {x}"],
    "zh": ["我的手机号是{x}，谢谢", "请打电话 {x} 联系我"],
    "ja": ["電話番号は{x}です。", "携帯: {x}"],
    "ko": ["제 전화번호는 {x} 입니다.", "연락처: {x}"],
    "tr": ["Telefon numaram {x}."], "id": ["Nomor telepon saya {x} ya."],
    "pl": ["Mój telefon to {x}."],
}  # fmt: skip
ANYWHERE = [
    "{x}", "It is {x}, I think.", "Here you go: {x}", "Name: Anna\n{x}\nBerlin", "({x})",
    "**{x}**", "\"{x}\"", "Bitte notieren: {x}.", "Voici : {x}", "Вот: {x}", "这是{x}。",
    "Can you format this as a table? Anna, {x}, paid; Bob, nothing, not paid.",
]  # fmt: skip


def with_luhn(digits: str) -> str:
    """The digits and their check digit."""
    doubled = [int(d) * (2 if n % 2 == 0 else 1) for n, d in enumerate(reversed(digits))]
    return digits + str(-sum(d - 9 if d > 9 else d for d in doubled) % 10)


def card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        [("4", 16), ("4", 13), ("51", 16), ("55", 16), ("2223", 16), ("34", 15), ("37", 15),
         ("6011", 16), ("65", 16), ("36", 14), ("3530", 16), ("62", 16), ("2202", 16)]
    )  # fmt: skip
    number = with_luhn(prefix + some(rng, DIGITS, length - len(prefix) - 1))
    sizes = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4)}.get(length, (length,))
    groups = [number[sum(sizes[:n]) :][:size] for n, size in enumerate(sizes)]
    return rng.choice(["", " ", " ", "-"]).join(groups)


#: ISO 13616: a = digit, A = capital, c = either.
IBANS = {
    "DE": "a" * 18, "GB": "AAAA" + "a" * 14, "FR": "a" * 10 + "c" * 11 + "aa", "ES": "a" * 20,
    "IT": "A" + "a" * 10 + "c" * 12, "NL": "AAAA" + "a" * 10, "CH": "a" * 5 + "c" * 12,
    "NO": "a" * 11, "PL": "a" * 24, "BE": "a" * 12, "SE": "a" * 20, "AT": "a" * 16, "PT": "a" * 21,
    "TR": "a" * 6 + "c" * 16, "MT": "AAAA" + "a" * 5 + "c" * 18, "SA": "aa" + "c" * 18,
}  # fmt: skip


def iban(rng: random.Random) -> str:
    country, form = rng.choice(list(IBANS.items()))
    letters = {"a": DIGITS, "A": UPPER, "c": DIGITS + UPPER}
    account = "".join(rng.choice(letters[sign]) for sign in form)
    number = "".join(str(int(sign, 36)) for sign in f"{account}{country}00")
    whole = f"{country}{98 - int(number) % 97:02d}{account}"
    return (
        " ".join(whole[n : n + 4] for n in range(0, len(whole), 4)) if rng.random() < 0.6 else whole
    )


def ip(rng: random.Random) -> str:
    if rng.random() < 0.3:
        groups = ["2a02", *(f"{rng.randrange(1, 65536):x}" for _ in range(7))]
        return ":".join(groups) if rng.random() < 0.5 else f"{':'.join(groups[:4])}::{groups[7]}"
    first = rng.choice([31, 52, 77, 81, 93, 142, 151, 185, 213])
    return f"{first}.{rng.randrange(70, 250)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"


# ---- keys ------------------------------------------------------------------------------------


def base62_crc(text: str) -> str:
    value, out = zlib.crc32(text.encode()), ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        out = ALNUM[digit] + out
    return out


def github(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return f"github_pat_{some(rng, ALNUM, 22)}_{some(rng, ALNUM, 59)}"
    body = some(rng, ALNUM, 30)
    return f"gh{rng.choice('pousr')}_{body}{base62_crc(body)}"


def npm(rng: random.Random) -> str:
    body = some(rng, ALNUM, 30)
    return f"npm_{body}{base62_crc(body)}"


def openai(rng: random.Random) -> str:
    mark = "T3BlbkFJ"
    if rng.random() < 0.4:
        return f"sk-{some(rng, ALNUM, 20)}{mark}{some(rng, ALNUM, 20)}"
    half = rng.choice([58, 74])
    kind = rng.choice(["proj", "svcacct", "admin"])
    return f"sk-{kind}-{some(rng, URLSAFE, half)}{mark}{some(rng, ALNUM, half)}"


def slack(rng: random.Random) -> str:
    team = some(rng, "123456789", 12)
    if rng.random() < 0.7:
        return f"xoxb-{team}-{some(rng, '123456789', 13)}-{some(rng, ALNUM, 24)}"
    return f"xoxp-{team}-{team}-{team}-{some(rng, HEX, 32)}"


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwt(rng: random.Random) -> str:
    header = {"alg": rng.choice(["HS256", "RS256", "ES256"]), "typ": "JWT"}
    if rng.random() < 0.5:
        header = {"typ": "JWT", "kid": some(rng, HEX, 16), **header}
    claims = {"sub": some(rng, DIGITS, 10), "name": rng.choice(FIRST), "iat": rng.randrange(2**31)}
    parts = [unpadded(json.dumps(one, separators=(",", ":")).encode()) for one in (header, claims)]
    return ".".join([*parts, unpadded(rng.randbytes(32))])


def pem(rng: random.Random) -> str:
    kind = rng.choice(["RSA ", "EC ", "OPENSSH ", "", "ENCRYPTED "])
    body = base64.b64encode(rng.randbytes(rng.choice([121, 610, 1190]))).decode()
    lines = [body[n : n + 64] for n in range(0, len(body), 64)]
    break_ = rng.choice(["\n", "\n", "\\n"])  # as in a service account's JSON
    return break_.join(
        [f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----"]
    )


def discord(rng: random.Random) -> str:
    number = unpadded(str(rng.randrange(10**17, 10**18)).encode())
    return f"{number}.{some(rng, URLSAFE, 6)}.{some(rng, URLSAFE, 27)}"


def password(rng: random.Random) -> str:
    word = rng.choice(["Tiger", "sommer", "Blue", "qwerty", "Montreal", "dragon"])
    tail = rng.choice(["!", "#", "$$", "@home", "", "?"])
    return rng.choice(
        [f"{word}{rng.randrange(10, 9999)}{tail}", some(rng, ALNUM + "!#%&", 13) + "7x"]
    )


KEYS: dict[str, Make] = {
    "OPENAI_KEY": openai,
    "ANTHROPIC_KEY": lambda r: f"sk-ant-api03-{some(r, URLSAFE, 93)}AA",
    "OPENROUTER_KEY": lambda r: f"sk-or-v1-{some(r, HEX, 64)}",
    "GROQ_KEY": lambda r: f"gsk_{some(r, ALNUM, 52)}",
    "HUGGING_FACE_TOKEN": lambda r: f"hf_{some(r, LOWER + UPPER, 34)}",
    "GOOGLE_KEY": lambda r: r.choice(
        [f"AIzaSy{some(r, URLSAFE, 33)}", f"GOCSPX-{some(r, URLSAFE, 28)}"]
    ),
    "AWS_ACCESS_KEY_ID": lambda r: f"{r.choice(['AKIA', 'ASIA'])}{some(r, UPPER + '234567', 16)}",
    "GITHUB_TOKEN": github,
    "GITLAB_TOKEN": lambda r: f"glpat-{some(r, URLSAFE, 20)}",
    "NPM_TOKEN": npm,
    "PYPI_TOKEN": lambda r: f"pypi-AgEIcHlwaS5vcmcCJ{some(r, URLSAFE, 140)}",
    "SLACK_TOKEN": slack,
    "SLACK_WEBHOOK": lambda r: (
        f"hooks.slack.com/services/T{some(r, UPPER + DIGITS, 10)}/B{some(r, UPPER + DIGITS, 10)}/"
        f"{some(r, ALNUM, 24)}"
    ),
    "STRIPE_KEY": lambda r: f"{r.choice(['sk', 'rk'])}_live_{some(r, ALNUM, r.choice([24, 99]))}",
    "SENDGRID_KEY": lambda r: f"SG.{some(r, URLSAFE, 22)}.{some(r, URLSAFE, 43)}",
    "TWILIO_KEY": lambda r: f"SK{some(r, HEX, 32)}",
    "TELEGRAM_TOKEN": lambda r: f"{some(r, '123456789', 10)}:AA{some(r, URLSAFE, 33)}",
    "DISCORD_TOKEN": discord,
    "JWT": jwt,
    "PRIVATE_KEY": pem,
}
CODE = [
    "export KEY={x}\npython app.py",
    'client = Client(api_key="{x}")',
    "API_KEY={x}",
    "curl -H 'Authorization: Bearer {x}' https://api.acme.io/v1",
    'KEY: "{x}",',
    "`{x}`",
    "I get an error 401 with {x}, why?",
    "мой ключ {x} не работает",
    "我的密钥是 {x} 为什么报错",
    "mein Schlüssel ist {x} und er geht nicht",
    '{{"key": "{x}", "n": 3}}',
    "use {x}.",
]
LABELLED: dict[str, tuple[Make, list[str]]] = {
    "AZURE_KEY": (
        lambda r: some(r, BASE64, 86) + "==",
        ["DefaultEndpointsProtocol=https;AccountName=acme;AccountKey={x};EndpointSuffix=core.net"],
    ),
    "AWS_SECRET_KEY": (
        lambda r: some(r, BASE64, 40),
        [
            "aws_secret_access_key = {x}",
            "AWS_SECRET_ACCESS_KEY={x}",
            '"SecretAccessKey": "{x}"',
            "export AWS_SECRET_ACCESS_KEY='{x}'",
            "aws secret key: {x}",
        ],
    ),
    "SECRET": (
        lambda r: r.choice(
            [
                some(r, HEX, 32),
                some(r, ALNUM, 24),
                some(r, ALNUM, 40),
                str(uuid.UUID(int=r.getrandbits(128))),
            ]
        ),
        [
            "api_key: {x}",
            'apiKey = "{x}";',
            "CLIENT_SECRET={x}",
            '"access_token": "{x}",',
            "Authorization: Bearer {x}",
            "my api key is {x}, what is wrong?",
            "auth_token = '{x}'",
        ],
    ),
    "PASSWORD": (
        password,
        [
            "password={x}",
            "password: {x}",
            "DB_PASSWORD='{x}'",
            "My password is {x} please remember",
            '{{"user": "anna", "password": "{x}"}}',
            "Mein Passwort: {x}",
            "пароль: {x}",
            "密码：{x}",
            "contraseña: {x}",
        ],
    ),
    "URL_CREDENTIALS": (
        lambda r: f"{r.choice(FIRST[:8])}:{some(r, ALNUM, 12)}",
        [
            "git clone https://{x}@git.acme.io/app.git",
            "postgres://{x}@db.acme.io:5432/app",
            "mongodb+srv://{x}@cluster0.ab1cd.mongodb.net/test",
            "redis://{x}@cache:6379",
        ],
    ),
}


# ---- what is none of it ----------------------------------------------------------------------


def date(rng: random.Random) -> str:
    y, m, d = rng.randrange(1900, 2030), rng.randrange(1, 13), rng.randrange(1, 29)
    return rng.choice(
        [f"{y}-{m:02d}-{d:02d} 12:{d:02d}:07", f"{d:02d}.{m:02d}.{y}", f"{m:02d}/{d:02d}/{y} 09:15",
         f"{y}{m:02d}{d:02d}T101500Z", f"{d:02d}-{m:02d}-{y} to {d:02d}-{m:02d}-{y + 1}",
         f"{y}-{y + 1} and {y + 2}-{y + 3}"]
    )  # fmt: skip


def isbn(rng: random.Random) -> str:
    body = "978" + some(rng, DIGITS, 9)
    check = -sum(int(d) * (1 + 2 * (n % 2)) for n, d in enumerate(body)) % 10
    form = f"{body[:3]}-{body[3]}-{body[4:8]}-{body[8:]}-{check}"
    return rng.choice(
        [f"ISBN {form}", f"ISBN {body}{check}", f"{form}", f"ISBN-10: 0-{body[4:7]}-{body[7:]}-X"]
    )


def version(rng: random.Random) -> str:
    parts = [str(rng.randrange(0, 40)) for _ in range(4)]
    dotted = ".".join(parts)
    return rng.choice(
        [
            f"version {dotted}", f"v{dotted}", f"Chrome/9{parts[0]}.0.44{parts[1]}.124",
            f"release 1{dotted}", f"react@{parts[0]}.2.0", f"section {dotted}", f"{dotted} Scope",
            f"numpy=={'.'.join(parts[:3])}",
        ]
    )  # fmt: skip


def wrong_card(rng: random.Random) -> str:
    number = with_luhn("4" + some(rng, DIGITS, 14))
    number = number[:15] + str((int(number[15]) + 1) % 10)
    return " ".join(number[n : n + 4] for n in range(0, 16, 4))


CODE_LINES = [
    "password = get_password(user_id1)",
    "if password == password2: return",
    "@app.route('/a')",
    "loss = A@x.weights + b",
    "token = tokenizer.decode(ids[0])",
    "api_key=os.environ['API_KEY1']",
    "std::vector<int> a = b::c::d(2);",
    "API_KEY=your-api-key-goes-here-123",
    "git@github.com:a/b.git",
    "password: '********'",
    '<input type="password" id="password1">',
    "max_tokens: 4096,",
    "secret = config['auth']['secret_v2']",
    "const token = await getToken2({user})",
    "sk-circle-fade",
    "Authorization: Bearer $TOKEN",
    "const KEY_LENGTH = 2048;",
    "img@2x.png",
    "key: some-long-key-name-2",
    "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "https://user:password@host/",
    "postgres://$USER:$PASS@db/app",
    "primary_key=True, index=12345678",
    "for i in range(1000000000): pass",
    "0xdeadbeef 0x7fffffffffff",
    "--color: #4155552671;",
]
#: Numbers of other kinds; see `filled` for the signs.
FORMS = {
    "price": ["$NNN,###.99", "€ N########", "N,###,###,### yen", "N.###.###,00 EUR"],
    "coordinates": ["52.######, 13.######", "-N#.#######, 1##.######"],
    "order": [
        "order N#########", "order no. 4###############", "###-#######-#######",
        "order ID ##########", "invoice RE-########", "tracking number 4###############",
    ],
    "sequence": [
        "1234567890123456", "1 2 3 4 5 6 7 8 9 10 11 12", "0123456789", "1111111111111111",
        "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89", "2 4 8 16 32 64 128 256 512", "1000 2000 3000 4000",
    ],
    "id": ["id=############", "user 1#################", "ABC-#######", "DOI 10.1###/#########"],
    "timestamp": ["1#########", "1############", "1#########.######"],
    "decimal": ["0.################", "-N.############", "3.14159265358979323846", "N.####e-05"],
    "sum": [
        "N######## + N##### = N########", "N######*N####", "sqrt(N########.0) = N###.#######",
        "x = N########/N###", "N######### - N#######",
    ],
    "private address": [
        "127.0.0.1", "192.168.1.1##", "10.1##.3.7", "0.0.0.0", "255.255.255.0", "8.8.8.8", "::1",
        "172.16.4.9", "fe80::1ff:fe23:4567:890a", "2001:db8::1",
    ],
    "account without checksum": ["DE00 #### #### #### #### ##"],
    "score": ["N-#, 1##-##; 7/10; population N#######", "### of ### (##.# %), p = 0.0###"],
    "code": CODE_LINES,
}  # fmt: skip
NEGATIVES: dict[str, Make] = {
    "date": date,
    "isbn": isbn,
    "version": version,
    "commit": lambda r: f"commit {some(r, HEX, 40)}",
    "sha256": lambda r: some(r, HEX, 64),
    "uuid": lambda r: str(uuid.UUID(int=r.getrandbits(128), version=4)),
    "base64 image": lambda r: f"data:image/png;base64,{some(r, BASE64, 400)}",
    "card without checksum": wrong_card,
    "token without checksum": lambda r: f"ghp_{some(r, ALNUM, 36)}",
    "MAC address": lambda r: ":".join(some(r, HEX, 2) for _ in range(6)),
}
WORDS = [
    "the", "of", "and", "to", "in", "that", "it", "is", "was", "for", "on", "are", "with", "as",
    "his", "they", "at", "be", "this", "from", "have", "or", "by", "one", "had", "not", "but",
    "what", "all", "were", "when", "we", "there", "can", "an", "your", "which", "their", "if",
    "will", "each", "about", "how", "up", "out", "them", "then", "she", "many", "some", "so",
    "these", "would", "other", "into", "has", "more", "two", "like", "him", "see", "time",
    "could", "no", "make", "than", "first", "been", "its", "who", "now", "people", "my", "made",
    "over", "did", "down", "only", "way", "find", "use", "may", "water", "long", "little",
    "very", "after", "because", "recipe", "please", "explain", "write", "help", "apartment",
    "garden", "travel", "question", "example",
]  # fmt: skip
POSITIVES = ("EMAIL", "PHONE", "CARD", "IBAN", "IP", *KEYS, *LABELLED)


def _phone(rng: random.Random) -> tuple[str, str]:
    form, place = rng.choice(list(PHONES.items()))
    language, _, needs_label = place.partition("-")
    sentence = rng.choice(CALL[language] if needs_label or rng.random() < 0.6 else ANYWHERE)
    return filled(rng, form), sentence


def _case(kind: str, rng: random.Random) -> tuple[str, str]:
    """What is planted and the sentence around it."""
    if kind == "PHONE":
        return _phone(rng)
    if kind in LABELLED:
        make, sentences = LABELLED[kind]
        return make(rng), rng.choice(sentences)
    if kind in KEYS:
        return KEYS[kind](rng), rng.choice(CODE)
    return {"EMAIL": email, "CARD": card, "IBAN": iban, "IP": ip}[kind](rng), rng.choice(ANYWHERE)


def _of_form(kind: str, rng: random.Random) -> str:
    form = rng.choice(FORMS[kind])
    return form if kind == "code" else filled(rng, form)


def plain(rng: random.Random, length: int = 300) -> str:
    """Ordinary words, a few marks and a number, `length` characters."""
    words: list[str] = []
    while sum(map(len, words)) + len(words) < length:
        mark = rng.choices(["", ",", ".", "?", ":"], weights=[80, 8, 8, 2, 2])[0]
        words.append(
            rng.choice([str(rng.randrange(2030)), *WORDS] if rng.random() < 0.3 else WORDS) + mark
        )
    return " ".join(words)[:length]


def planted(each: int, rng: random.Random) -> list[tuple[str, str, tuple[int, int]]]:
    """(kind, text, span of what was planted) in a fixed order; (0, 0) where nothing was."""
    cases = []
    for kind in POSITIVES:
        for _ in range(each):
            secret, sentence = _case(kind, rng)
            before, after = sentence.split("{x}")
            before, after = (part.replace("{{", "{").replace("}}", "}") for part in (before, after))
            lead = plain(rng, rng.randrange(5, 80)) + ". " if rng.random() < 0.5 else ""
            start = len(lead + before)
            cases.append((kind, f"{lead}{before}{secret}{after}", (start, start + len(secret))))
    for kind, make in NEGATIVES.items():
        for _ in range(each):
            sentence = rng.choice(
                ANYWHERE + [line for lines in CALL.values() for line in lines[:1]][:0]
            )
            before, after = sentence.split("{x}")
            cases.append((kind, f"{before}{make(rng)}{after}", (0, 0)))
    cases += [("plain", plain(rng), (0, 0)) for _ in range(each)]
    return cases
