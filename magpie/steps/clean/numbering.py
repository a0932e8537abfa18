"""A number or a bullet before a message: told from an ordinal, a date, a decimal and the beginning of a list.

Many languages write an ordinal as a number with a full stop: German "2. Weltkrieg", Turkish "5. sınıf", Czech
"100. výročí". English and most others do not. What follows the number decides, and where nothing decides, it stays: a
number too many does less harm than an ordinal cut off.
"""

from __future__ import annotations

import re
import unicodedata

from magpie.text import COLONS, folded

# Chinese numerals, and letters of scripts that put no space behind a number.
_HAN_NUMBER = "一二三四五六七八九十"
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
_NUMBER = re.compile(
    rf"""
    [(（]?(?P<digits>\d{{1,3}})
    (?: (?P<stop>\.)\s+              # the space tells "1. Why?" from "1.5 litres"
      | \)\s+ | ）\s*
      | [、﹑]\s*
      | [.．)]\s*(?=[{_UNSPACED}])   # "1.什么是", but "3.14" and "2.0" are numbers
      | ．\s*(?=\D)
      | \s?[-–]\s*(?=[\u0600-\u06ff])  # Arabic and Persian lists: "١- ما هو"
    )
    | [(（]?(?P<han>[{_HAN_NUMBER}]{{1,3}})(?:、\s*|[)）]\s*)
    | (?P<circled>[①-⑳⑴-⒛❶-❿➀-➓])\s*
    """,
    re.VERBOSE,
)
_NEXT = re.compile(
    r"(?<![^\s。；;，,、])[(（]?(\d{1,3})(?:[.)．）]|[-–](?=\s?[\u0600-\u06ff]))|(\d{1,3})[、﹑]"
)
_NEXT_HAN = re.compile(rf"([{_HAN_NUMBER}]{{1,3}})[、)）]")
# Not before a digit: "- 3 + 5" may begin with a minus.
_BULLET = re.compile(r"[-–*•]\s+(?=[^\d\s])")
_FURTHER_BULLET = re.compile(r"\n\s*[-–*•]\s")

# What may follow the day of a date: "12. 05. 2021", "3. 10.", "1. 1990".
_REST_OF_DATE = re.compile(r"\d{1,2}\.(?:\s|\d|$)|\d{4}\b")
_PHONE = re.compile(r"\(\d{3}\)\s+\d{3}\b")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_LEADING_WORDS = 40
_COLON_SOON = re.compile(rf"(?:[^\s{COLONS}]+\s+){{0,3}}[^\s{COLONS}]+\s?[{COLONS}–—]")
# Letters that only Serbian and Macedonian have, of the languages in Cyrillic.
_ORDINALS_IN_CYRILLIC = re.compile("[ђјљњћџѓѕќ]", re.IGNORECASE)

_MONTHS = re.compile(
    r"(?:januar|jänner|februar|feber|märz|mäerz|april|mai|juni|juli|august|september|oktober|november|dezember|december"
    r"|jan|feb|apr|aug|sept?|okt|nov|dez)s?\Z"
)
# German writes nouns with capitals: a noun of these is counted by ordinals, and begins no message.
_COUNTED = re.compile(
    r"(?:\w*(?:krieg|jahrhundert|jahrtausend|geburtstag|jahrestag|todestag|hochzeitstag|namenstag|klasse|liga|lesung"
    r"|symphonie|sinfonie|auflage|ausgabe|semester|quartal|halbjahr|jahr|monat|woche|stunde|stock|stockwerk|etage"
    r"|platz|rang|preis|runde|spieltag|kapitel|buch|band|teil|akt|szene|satz|gebot|generation|staffel|folge|schicht"
    r"|division|bataillon|armee|bezirk|kreis|senat|kammer|gesetz|person|grad|ordnung|wahl|mal|tag|trimester"
    r"|advent|weihnachtstag|republik|reich|kreuzzug|kongress|messe|versuch|schritt|halbzeit|viertel|drittel))"
    r"(?:e|en|er|es|s|n)?\Z"
)


def _lexicon(text: str) -> frozenset[str]:
    return frozenset(folded(text).split())


# Frequent words of languages that write no ordinals with a full stop, and of those that do. No word is in both kinds
# of languages, or it is left out.
_WITHOUT = _lexicon(
    """the of what how why when where which who you your this that are does should would could with from between it its
    and or write explain describe about into que qui est une avec pour sont vous quelle quel quels comment pourquoi
    una con como cómo qué cuál quién dónde explica escribe el della nella quale perché sono come uma não você são qual
    por och är vad hur inte att varför och het een wat hoe waarom welke niet voor zijn și este care pentru cum yang
    adalah bagaimana untuk dengan là của và những cho như thế nào"""
) - _lexicon("come el por con como una que")
_WITH = _lexicon(
    """der und ist wie wann wer wo wurde warum welche welcher welches auf gegen zwischen mein meine meiner meinem deine
    für nicht von vom zum zur mit im ein eine einen einem einer eines schreibe erkläre nenne sind kann bei nach geschah
    og hvad hva hvordan hvorfor hvornår når hvilken hvilket hvilke hvem hvor ikke af jeg blev ble skriv forklar hvað
    hvernig jak kdy kdo který která které proč jaký jaké jaká že od napiš vysvětli ako čo kedy kto prečo aký jest się
    czy dlaczego kiedy który która jakie jaki nie dla oraz był była napisz wyjaśnij što šta kako koji koja koje zašto
    kada gdje kdaj kaj kateri zakaj napiši az és hogy hogyan miért mikor melyik egy volt milyen írj mikä mitä miten
    miksi milloin kuka oli onko kuidas miks millal kes mis kas kā kāpēc bija kurš bir bu için nasıl neden hangi kaç
    nedir kimdir ile olan ve"""
)
# Words that begin a question or a task, in languages with such ordinals and in those without.
_OPENERS = _lexicon(
    """wie was wann wer wo warum wieso weshalb welche welcher welches wen wem wieviel erkläre erklären beschreibe
    beschreiben nenne nennen schreibe schreiben schreib erstelle erstellen berechne berechnen vergleiche übersetze gib
    finde bestimme analysiere erläutere diskutiere zeige kannst können könnten ist sind hat haben gibt ich du der die
    das ein eine mein meine bitte stelle entwickle entwirf formuliere fasse ergänze löse ordne wähle zähle liste
    definiere begründe bewerte bilde korrigiere verfasse erzähle beantworte hilf angenommen wenn in im am bei mit für
    hvad hva hvordan hvorfor hvornår når hvem hvor hvilken hvilket hvilke skriv forklar beskriv nævn nevn lav lag giv
    gi kan er find finn co jak proč kdy kdo kde který která které jaký jaká jaké kolik napiš napište vysvětli
    vysvětlete popiš popište uveď vyjmenuj můžeš čo ako prečo kedy kto ktorý aký koľko napíš napíšte vysvetli opíš
    dlaczego kiedy gdzie jaki jaka jakie ile czy napisz wyjaśnij opisz wymień podaj stwórz što šta kako zašto kada tko
    ko gdje gde koji koja koje koliko napiši objasni opiši navedi kaj zakaj kdaj kje kateri katera mi mit miért mikor
    ki hol melyik hogyan milyen mennyi hány írj írd magyarázd sorolj adj nevezz készíts mikä mitä miten miksi milloin
    kuka missä kuinka mitkä kirjoita selitä kerro kuvaile luettele anna tee mis miks millal kes kus kuidas milline
    kirjuta selgita nimeta kirjelda kas kā kāpēc kad kur kurš uzraksti paskaidro ne nasıl neden niçin kim hangi kaç
    nerede yaz yazın açıkla açıklayın anlat bana hvað hvernig hvers hvenær hver hvar
    translate name calculate compute compare list give solve complete define find fill choose true identify summarize
    classify rewrite correct convert evaluate discuss create make tell consider imagine suppose prove show design draft
    traduis donne écris explique traduce enumera calcula scrivi spiega traduza liste schrijf noem leg översätt"""
)


def strip_numbering(text: str) -> str:
    """Without a number or a bullet before the text, unless it begins a list that goes on: then it is part of that."""
    if bullet := _BULLET.match(text):
        return text if _FURTHER_BULLET.search(text) else text[bullet.end() :]
    number = _NUMBER.match(text)
    if number is None or _PHONE.match(text):
        return text
    rest = text[number.end() :]
    if _counts_on(number, rest) or (number["stop"] and _is_ordinal(rest)):
        return text
    return rest


def _counts_on(number: re.Match[str], rest: str) -> bool:
    """Whether the next number of a list comes later in the text."""
    if circled := number["circled"]:
        return chr(ord(circled) + 1) in rest
    if han := number["han"]:
        following = _HAN_NUMBER[(_HAN_NUMBER.find(han) + 1) % len(_HAN_NUMBER)]
        return any(match[1] == following for match in _NEXT_HAN.finditer(rest))
    following_number = int(number["digits"]) + 1
    return any(int(match[1] or match[2]) == following_number for match in _NEXT.finditer(rest))


def _is_ordinal(rest: str) -> bool:
    """Whether a number with a full stop before `rest` is an ordinal or the day of a date."""
    if _REST_OF_DATE.match(rest):
        return True
    first = _FIRST_WORD.match(rest)
    # A quotation, markup or a number follows no ordinal; and scripts without capitals write ordinals otherwise.
    if first is None or not _has_case(first[0][0]):
        return False
    if "CYRILLIC" in unicodedata.name(first[0][0], ""):
        return bool(_ORDINALS_IN_CYRILLIC.search(rest)) or first[0][0].islower()
    return _is_ordinal_in_latin(first[0], rest)


def _is_ordinal_in_latin(first: str, rest: str) -> bool:
    """The same for text in Latin or Greek letters, whose first word is `first`."""
    word = folded(first)
    without, with_ordinals = _votes(rest)
    if first[0].islower() or _MONTHS.match(word) or _COUNTED.match(word):
        return without <= with_ordinals
    if word in _OPENERS or without > with_ordinals:
        return False
    is_short_name = first.isupper() and 1 < len(word) <= 4  # "1. FC Köln"
    return with_ordinals > 0 or is_short_name or bool(_COLON_SOON.match(rest)) or not rest.isascii()


def _votes(text: str) -> tuple[int, int]:
    """How many words at the beginning are of languages without ordinals of this form, and of those with them."""
    words = [folded(word) for word in _FIRST_WORD.findall(text[:400])[:_LEADING_WORDS]]
    return sum(word in _WITHOUT for word in words), sum(word in _WITH for word in words)


def _has_case(letter: str) -> bool:
    return letter.lower() != letter.upper()
