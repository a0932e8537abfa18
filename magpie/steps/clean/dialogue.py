"""Whether a model wrote both sides of a conversation into one text, in whatever language it names the speakers."""

from __future__ import annotations

import re

from magpie.text import COLONS, SENTENCE_ENDS, folded

_MARKS = r"\u0300-\u036f\u0900-\u0dff\u0e00-\u0e7f"  # vowels of India and Thailand, which `\w` leaves out
# Punctuation around a name is that of Markdown, such as "**User**:", and French puts a space before the colon.
_LABEL = re.compile(
    rf"^[^\w\n]{{0,8}}(?P<name>[^\W\d_][\w'’\-{_MARKS}]*(?:[ \u00a0][^\s{COLONS}]{{1,16}}){{0,2}}?)"
    rf"[^\w\n{COLONS}]{{0,4}}[{COLONS}](?P<said>.*)",
    re.MULTILINE,
)


def _names(text: str) -> frozenset[str]:
    return frozenset(folded(name.strip()) for name in text.replace("\n", ",").split(","))


# Two of these lines are enough: what a model calls the person, and what it calls itself.
_PERSON = _names(
    """user, human, nutzer, nutzerin, benutzer, benutzerin, anwender, mensch, utilisateur, utilisatrice, humain
    usuario, usuaria, humano, usuário, utente, umano, gebruiker, mens, användare, människa, bruger, menneske
    bruker, käyttäjä, ihminen, kasutaja, inimene, uživatel, člověk, používateľ, človek, użytkownik, człowiek
    felhasználó, ember, kullanıcı, insan, utilizator, utilizador, korisnik, čovjek, uporabnik, lietotājs
    vartotojas, notandi, usuari, пользователь, человек, користувач, людина, потребител, човек, корисник
    χρήστης, άνθρωπος, مستخدم, المستخدم, إنسان, کاربر, انسان, صارف, משתמש, אדם, उपयोगकर्ता, मानव
    ব্যবহারকারী, பயனர், వినియోగదారు, ผู้ใช้, มนุษย์, người dùng, pengguna, ユーザー, ユーザ, 人間, 用户
    用戶, 使用者, 人类, 人類, 사용자, 유저, 인간, მომხმარებელი, օգտատեր, foydalanuvchi, mtumiaji"""
)
_MODEL = _names(
    """assistant, ai, chatbot, bot, system, ai assistant, chatgpt, gpt, assistent, assistentin, ki, assistante
    ia, asistente, sistema, asistenta, assistente, sistem, avustaja, tekoäly, abiline, asystent, asistent
    asszisztens, mesterséges intelligencia, asistan, yapay zeka, pomoćnik, asistents, asistentas
    aðstoðarmaður, assistenten, système, ассистент, помощник, ии, бот, система, асистент, помічник
    асистентът, помоћник, βοηθός, مساعد, المساعد, دستیار, معاون, עוזר, सहायक, সহকারী, உதவியாளர், సహాయకుడు
    ผู้ช่วย, trợ lý, asisten, アシスタント, 助手, 助理, 人工智能, 人工智慧, 机器人, 어시스턴트, 도우미, 비서
    ასისტენტი, օգնական, yordamchi, msaidizi"""
)
# Labels of tasks with examples, which alternate as well: "Input: 3", "Output: 9", "Input: 4".
_DATA = _names(
    """input, output, q, a, question, answer, example, premise, hypothesis, text, label, sentence, sentiment
    word, english, french, german, spanish, chinese, source, target, problem, solution, before, after
    eingabe, ausgabe, frage, antwort, beispiel, entrée, sortie, réponse, entrada, salida, saída, pregunta
    respuesta, pergunta, resposta, domanda, risposta, вход, выход, вопрос, ответ, 输入, 输出, 問題, 问题
    答案, 回答, 入力, 出力, 質問, 입력, 출력, 질문, 답변, سؤال, جواب, إجابة"""
)
_FEWEST_LINES = 3  # of two labels that take turns: the first speaks again
_ENDS_SENTENCE = re.compile(rf"[{re.escape(SENTENCE_ENDS)}]")


def is_conversation(text: str) -> bool:
    """Whether the text opens with a speaker's name and goes on with another's: the model wrote both sides.

    Two names for a person and a model are enough. Of names that are not known, the same two must take turns at the
    beginnings of lines, each saying a sentence, and the first must come again.
    """
    text = text.lstrip()
    lines = list(_LABEL.finditer(text))
    if not lines or lines[0].start() != 0:
        return False
    names = [_name(line["name"]) for line in lines]
    if names[0] in _PERSON and any(name in _PERSON or name in _MODEL for name in names[1:]):
        return True
    return _take_turns(names) and all(_ENDS_SENTENCE.search(text) for text in _said(text, lines)[:2])


def _take_turns(names: list[str]) -> bool:
    """Whether the same two names, which are none of data, alternate."""
    pair = dict.fromkeys(names)
    if len(names) < _FEWEST_LINES or len(pair) != 2 or not _DATA.isdisjoint(pair):
        return False
    return all(name == names[at % 2] for at, name in enumerate(names))


def _said(text: str, lines: list[re.Match[str]]) -> list[str]:
    """What stands behind each name, up to the next one."""
    ends = [*(line.start() for line in lines[1:]), len(text)]
    return [text[line.start("said") : end] for line, end in zip(lines, ends, strict=True)]


def _name(label: str) -> str:
    """A speaker's name without a number behind it, as in "User 1"."""
    return re.sub(r"[\s_\-#]*\d+\Z", "", folded(label)).strip()
