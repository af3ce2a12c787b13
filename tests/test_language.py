"""Languages: names become BCP 47 codes, and text that says nothing of itself is recognised."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth import language
from userlm_synth.language import CODES, NAMES, code, detect

# What WildChat calls its languages: the names of lingua, which found them.
WILDCHAT = """
    Afrikaans Albanian Arabic Armenian Azerbaijani Basque Belarusian Bengali Bokmal Bosnian
    Bulgarian Catalan Chinese Croatian Czech Danish Dutch English Esperanto Estonian Finnish
    French Ganda Georgian German Greek Gujarati Hebrew Hindi Hungarian Icelandic Indonesian Irish
    Italian Japanese Kazakh Korean Latin Latvian Lithuanian Macedonian Malay Maori Marathi
    Mongolian Nynorsk Persian Polish Portuguese Punjabi Romanian Russian Serbian Shona Slovak
    Slovene Somali Sotho Spanish Swahili Swedish Tagalog Tamil Telugu Thai Tsonga Tswana Turkish
    Ukrainian Urdu Vietnamese Welsh Xhosa Yoruba Zulu
""".split()  # noqa: SIM905


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("English", "en"), ("english", "en"), ("EN", "en"), ("en-US", "en"), ("en_GB.UTF-8", "en"),
        ("eng", "en"), (" English ", "en"), ("English (United States)", "en"),
        ("Chinese", "zh"), ("zh-Hans", "zh"), ("Chinese (Simplified)", "zh"), ("cmn", "zh"),
        ("pt-BR", "pt"), ("Portuguese", "pt"), ("ger", "de"), ("iw", "he"), ("Bangla", "bn"),
        ("Bokmal", "no"), ("nb", "no"), ("Norwegian", "no"), ("Nynorsk", "nn"), ("Maori", "mi"),
        ("Māori", "mi"), ("Tagalog", "tl"), ("Filipino", "tl"), ("Scottish Gaelic", "gd"),
        ("Serbo-Croatian", "sh"), ("Haitian Creole", "ht"), ("Klingon", "tlh"),
        ("unknown", None), ("und", None), ("un", None), ("xx", None), ("zxx", None), ("", None),
        (" ", None), ("-", None), (None, None),
    ],
)  # fmt: skip
def test_what_sources_call_a_language_becomes_its_code(name: str | None, found: str | None) -> None:
    assert code(name) == found


def test_every_name_in_wildchat_has_a_code_of_its_own() -> None:
    found = [code(name) for name in WILDCHAT]
    assert len(WILDCHAT) == 75
    assert None not in found
    assert len(set(found)) == 75


def test_no_name_stands_for_two_languages_and_a_code_is_its_own_code() -> None:
    names = [name.strip() for entry in NAMES.split(";") for name in entry.split(",")]
    assert len(names) == len(set(names)) == len(CODES)
    assert all(CODES[found] == found for found in CODES.values())
    assert len({found for found in CODES.values() if len(found) == 2}) >= 180


@given(st.text())
def test_any_name_and_any_text_has_an_answer(text: str) -> None:
    assert code(text) is None or code(text) in CODES.values()
    assert detect(text) is None or detect(text) in CODES.values()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write me a short story about a dog that wants to fly", "en"),
        ("can you fix this: for i in range(10): print(i) it says invalid syntax", "en"),
        ("escribe un cuento corto sobre un perro que quiere volar", "es"),
        ("schreib mir eine kurze Geschichte über einen Hund", "de"),
        ("帮我写一个关于狗的短故事", "zh"),
        ("напиши короткую историю о собаке, которая хочет летать", "ru"),
        ("犬についての短い話を書いてください", "ja"),
        ("اكتب لي قصة قصيرة عن كلب", "ar"),
    ],
)
def test_short_requests_are_recognised(text: str, found: str) -> None:
    assert detect(text) == found


@pytest.mark.parametrize("text", ["", " ", "ok", "hi", "???", "12 + 30 =", "🙂", "x = [1, 2]\n"])
def test_where_there_is_too_little_to_go_by_there_is_no_answer(text: str) -> None:
    assert detect(text) is None


def test_a_long_text_is_judged_by_its_beginning() -> None:
    english = "this is what people type when they want a text written for them. " * 8
    assert len(english) > language.LOOKED_AT
    assert detect(english + "das ist ein langer deutscher Text. " * 1000) == "en"


def test_the_model_is_loaded_once_and_with_the_first_text_alone() -> None:
    program = (
        "import sys\n"
        "from userlm_synth import language\n"
        "assert language.code('English') == 'en'\n"
        "assert 'py3langid' not in sys.modules\n"
        "language.detect('hello there'); language.detect('good morning')\n"
        "print(language._detector.cache_info().misses)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
