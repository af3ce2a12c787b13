"""Languages: what sources call them, as BCP 47 codes; and a detector for text that says nothing.

Sources name a language in many ways (`English`, `en-US`, `eng`); `code` makes one of them.
`detect` is py3langid: a model of 4.5 MB inside the package, no download, the same answer for
the same text. `benchmarks/language.py` compares it with others.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

#: Characters of a text that are looked at: more takes longer, and is no more often right.
LOOKED_AT = 300

#: The code, then the other codes (ISO 639-2 and -3) and the English names that sources use. These
#: are ISO 639-1, and what CLD2 (LMSYS) and lingua (WildChat) tell apart beyond it. Twins have one
#: code, so that one entry in `languages` keeps them all: Bokmal is `no` and Filipino is `tl`.
NAMES = """
aa,aar,afar; ab,abk,abkhaz,abkhazian; ae,ave,avestan; af,afr,afrikaans; ak,aka,tw,twi,akan;
am,amh,amharic; an,arg,aragonese; ar,ara,arb,arabic; as,asm,assamese; av,ava,avaric; ay,aym,aymara;
az,aze,azerbaijani,azeri; ba,bak,bashkir; be,bel,belarusian,byelorussian; bg,bul,bulgarian;
bh,bih,bihari; bi,bis,bislama; bm,bam,bambara; bn,ben,bengali,bangla; bo,bod,tib,tibetan;
br,bre,breton; bs,bos,bosnian; ca,cat,catalan,valencian; ce,che,chechen; ch,cha,chamorro;
co,cos,corsican; cr,cre,cree; cs,ces,cze,czech; cu,chu,church slavic,church slavonic;
cv,chv,chuvash; cy,cym,wel,welsh; da,dan,danish; de,deu,ger,german,standard german;
dv,div,dhivehi,divehi,maldivian; dz,dzo,dzongkha; ee,ewe; el,ell,gre,greek,modern greek;
en,eng,english; eo,epo,esperanto; es,spa,spanish,castilian; et,est,ekk,estonian;
eu,eus,baq,basque; fa,fas,per,pes,persian,farsi,dari; ff,ful,fulah,fula; fi,fin,finnish;
fj,fij,fijian; fo,fao,faroese; fr,fra,fre,french; fy,fry,frisian,western frisian; ga,gle,irish;
gd,gla,scottish gaelic,scots gaelic,scots_gaelic,gaelic; gl,glg,galician; gn,grn,guarani;
gu,guj,gujarati; gv,glv,manx; ha,hau,hausa; he,heb,iw,hebrew; hi,hin,hindi; ho,hmo,hiri motu;
hr,hrv,croatian; ht,hat,haitian,haitian creole,haitian_creole; hu,hun,hungarian;
hy,hye,arm,armenian; hz,her,herero; ia,ina,interlingua; id,ind,in,indonesian,bahasa indonesia;
ie,ile,interlingue; ig,ibo,igbo; ii,iii,nuosu,sichuan yi; ik,ipk,inupiak,inupiaq,inupiat; io,ido;
is,isl,ice,icelandic; it,ita,italian; iu,iku,inuktitut; ja,jpn,japanese; jv,jav,jw,javanese;
ka,kat,geo,georgian; kg,kon,kongo; ki,kik,kikuyu; kj,kua,kuanyama; kk,kaz,kazakh;
kl,kal,greenlandic,kalaallisut; km,khm,khmer,cambodian; kn,kan,kannada; ko,kor,korean;
kr,kau,kanuri; ks,kas,kashmiri; ku,kur,kmr,kurdish,kurmanji; kv,kom,komi; kw,cor,cornish;
ky,kir,kirghiz,kyrgyz; la,lat,latin; lb,ltz,luxembourgish; lg,lug,ganda,luganda;
li,lim,limburgish; ln,lin,lingala; lo,lao,laothian; lt,lit,lithuanian; lu,lub,luba-katanga;
lv,lav,latvian; mg,mlg,malagasy; mh,mah,marshallese; mi,mri,mao,maori,māori;
mk,mkd,mac,macedonian; ml,mal,malayalam; mn,mon,khk,mongolian; mr,mar,marathi;
ms,msa,may,zsm,malay; mt,mlt,maltese; my,mya,bur,burmese,myanmar; na,nau,nauru;
nd,nde,north ndebele; ne,nep,nepali; ng,ndo,ndonga; nl,nld,dut,dutch,flemish;
nn,nno,nynorsk,norwegian nynorsk,norwegian_n;
no,nor,nb,nob,norwegian,bokmal,bokmål,norwegian bokmal,norwegian bokmål;
nr,nbl,south ndebele,ndebele; nv,nav,navajo; ny,nya,nyanja,chichewa; oc,oci,occitan;
oj,oji,ojibwa; om,orm,oromo;
or,ori,ory,odia,oriya; os,oss,ossetian,ossetic; pa,pan,punjabi; pi,pli,pali; pl,pol,polish;
ps,pus,pashto; pt,por,portuguese; qu,que,quechua; rm,roh,romansh,rhaeto_romance;
rn,run,rundi,kirundi; ro,ron,rum,mo,romanian,moldovan; ru,rus,russian; rw,kin,kinyarwanda;
sa,san,sanskrit; sc,srd,sardinian; sd,snd,sindhi; se,sme,northern sami; sg,sag,sango;
sh,hbs,serbo-croatian; si,sin,sinhala,sinhalese; sk,slk,slo,slovak; sl,slv,slovene,slovenian;
sm,smo,samoan; sn,sna,shona; so,som,somali; sq,sqi,alb,albanian; sr,srp,serbian;
ss,ssw,siswant,swati; st,sot,sotho,southern sotho,sesotho; su,sun,sundanese; sv,swe,swedish;
sw,swa,swh,swahili; ta,tam,tamil; te,tel,telugu; tg,tgk,tajik; th,tha,thai; ti,tir,tigrinya;
tk,tuk,turkmen; tl,tgl,fil,tagalog,filipino; tn,tsn,tswana; to,ton,tongan,tonga; tr,tur,turkish;
ts,tso,tsonga; tt,tat,tatar; ty,tah,tahitian; ug,uig,uighur,uyghur; uk,ukr,ukrainian;
ur,urd,urdu; uz,uzb,uzbek; ve,ven,venda; vi,vie,vietnamese; vo,vol,volapük,volapuk;
wa,wln,walloon; wo,wol,wolof; xh,xho,xhosa; yi,yid,ji,yiddish; yo,yor,yoruba; za,zha,zhuang;
zh,zho,chi,cmn,chinese,chineset,mandarin,mandarin chinese,simplified chinese,traditional chinese;
zu,zul,zulu; yue,cantonese; ceb,cebuano; war,waray; haw,hawaiian; sco,scots; tlh,klingon;
kha,khasi; mfe,morisyen,mauritian_creole,mauritian creole; crs,seselwa,seselwa creole french;
syr,syriac; chr,cherokee; nso,pedi,northern sotho,sepedi; hmn,hmong; lif,limbu; tum,tumbuka;
ckb,central kurdish,sorani; gsw,swiss german; nds,low german; ast,asturian; scn,sicilian;
egl,emilian; lij,ligurian; vec,venetian; pap,papiamento; tpi,tok pisin; jbo,lojban; got,gothic;
ilo,iloko; bho,bhojpuri; mai,maithili; sat,santali; pcm,nigerian pidgin; wuu,wu chinese
"""
CODES = {
    name: names[0]
    for entry in NAMES.split(";")
    for names in [[name.strip() for name in entry.split(",")]]
    for name in names
}

#: Small Romance languages; beside them, short Spanish, French or Italian is hard to be sure of.
LEFT_OUT = {"an", "oc", "vo", "wa"}


def code(name: str | None) -> str | None:
    """The BCP 47 primary code of what a source calls a language; null where it is not known.

    `English`, `english`, `eng`, `EN` and `en-US` are `en`; `unknown` and `und` are null.
    """
    if not name:
        return None
    name = name.strip().casefold()
    return CODES.get(name) or CODES.get(re.split(r"[-_(]", name, maxsplit=1)[0].strip())


def detect(text: str) -> str | None:
    """The BCP 47 code of the language that the first 300 characters are in; null when unsure.

    Sure means: more likely than all other languages together. A word or two, code, sums and a mix
    of languages are null. The first call in a process loads the model (half a second).
    """
    found = _detector().classify(text[:LOOKED_AT])[0]
    return code(found)


@cache
def _detector() -> Any:
    """The model, for languages with an ISO 639-1 code and for what is no language (zxx)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=0.5)
    model.set_languages([x for x in model.labels if len(x) == 2 and x not in LEFT_OUT] + ["zxx"])
    return model
