"""Numbers, labels and speakers in texts of every script: what is stripped, and what belongs to the message."""

from __future__ import annotations

import pytest
from test_clean import reason

from magpie.steps import clean
from magpie.steps.clean import strip

ORDINALS = """3. Oktober 1990: Was geschah an diesem Tag?
2. Weltkrieg: Wann begann er?
2. Weltkrieg Zusammenfassung
1. FC Köln gegen Borussia: wer hat öfter gewonnen?
1. FC Köln Tabelle
5. sınıf matematik problemi yaz
100. Geburtstag meiner Oma: Was schenke ich?
19. Jahrhundert: Was geschah in Europa?
20. Juli 1944 - was passierte?
10. Klasse Mathe Aufgabe
1. Bundesliga Tabelle
3. oktober 1990 – hvad skete der?
2. verdenskrig: hvornår begyndte den?
17. mai er Norges nasjonaldag, hvorfor?
28. října 1918: co se stalo?
100. výročí republiky
5. osztály: írj egy dolgozatot
14. Lajos mikor uralkodott?
2. maailmasota: milloin se alkoi?
1. mai tähistamine: mis see on?
8. klasa: napisz wypracowanie
2. Mehmed kimdir?
4. juli i USA
1. HNL: koji klub je bio prvak?
5. разред: напиши задатак
12. 05. 2021 war ein Mittwoch, oder?
12. 5. 2021 byla středa?
12.05.2021 war welcher Tag?
3. 10. 1990: welcher Wochentag?
3.5 Liter Wasser wiegen wie viel?
2.0 ist welche Version?
12:30 Uhr in Tokio?
1.5 is what share of 3?
3.14是什么？
(555) 123-4567 is whose number?""".splitlines()

NUMBERED = {
    "12. What is a wren?": "What is a wren?",
    "7. Calculate 12 * 9": "Calculate 12 * 9",
    "3. Name three birds": "Name three birds",
    "1. Translate: dog": "Translate: dog",
    "1. what is a wren?": "what is a wren?",
    "10. Photosynthesis is the process by which plants grow. Explain.": (
        "Photosynthesis is the process by which plants grow. Explain."
    ),
    "1. 5 + 3 = ?": "5 + 3 = ?",
    "2. Wie fliegen Bienen?": "Wie fliegen Bienen?",
    "3. Schreibe ein Gedicht über den Herbst.": "Schreibe ein Gedicht über den Herbst.",
    "4. Hvad er en gærdesmutte?": "Hvad er en gærdesmutte?",
    "5. Nasıl ekmek yapılır?": "Nasıl ekmek yapılır?",
    "1. Qu'est-ce que c'est ?": "Qu'est-ce que c'est ?",
    "2. ¿Qué es un pájaro?": "¿Qué es un pájaro?",
    "3. Что такое крапивник?": "Что такое крапивник?",
    "1、什么是鹪鹩？": "什么是鹪鹩？",
    "（1）什么是鹪鹩？": "什么是鹪鹩？",
    "1.什么是鹪鹩？": "什么是鹪鹩？",
    "１．什么是鹪鹩？": "什么是鹪鹩？",
    "一、什么是鹪鹩？": "什么是鹪鹩？",
    "① What is a wren?": "What is a wren?",
    "2. ミソサザイとは何ですか？": "ミソサザイとは何ですか？",
    "1. 굴뚝새는 무엇인가?": "굴뚝새는 무엇인가?",
    "١. ما هو النمنمة؟": "ما هو النمنمة؟",
    "١- ما هو النمنمة؟": "ما هو النمنمة؟",
    "۱. این چیست؟": "این چیست؟",
    "१. चिड़िया क्या है?": "चिड़िया क्या है?",
    '1. "Why?"': "Why?",
    "质问：什么？": "质问：什么？",
    "問題︰什麼是鳥？": "什麼是鳥？",
    "Frage 3: Was ist ein Zaunkönig?": "Was ist ein Zaunkönig?",
    "Вопрос: что это?": "что это?",
    "„Wie fliegen Bienen?“": "Wie fliegen Bienen?",
    "„Jak latają pszczoły?”": "Jak latają pszczoły?",
}


@pytest.mark.parametrize("text", ORDINALS)
def test_an_ordinal_a_date_and_a_decimal_stay(text: str) -> None:
    assert strip(text) == text


@pytest.mark.parametrize("text", NUMBERED)
def test_a_number_and_a_label_of_any_script_come_off(text: str) -> None:
    assert strip(text) == NUMBERED[text]


@pytest.mark.parametrize(
    "text",
    ["1、苹果2、香蕉，哪个甜？", "①苹果②香蕉，哪个甜？", "١. تفاح ٢. موز", "一、苹果二、香蕉，哪个甜？"],
)
def test_a_list_that_goes_on_keeps_its_numbers(text: str) -> None:
    assert strip(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "User: how are you?\nAssistant: fine, and you?",
        "\n**Human**: hi\n\n**AI**: hello",
        "Nutzer: Hallo\nAssistent: Hallo!",
        "Utilisateur : Bonjour\nAssistant : Salut",
        "用户：你好\n助手：你好！",
        "Пользователь: привет\nАссистент: привет",
        "ユーザー：こんにちは\nアシスタント：はい",
        "Usuario: hola\nAsistente: hola",
        "مستخدم: مرحبا\nمساعد: أهلا",
        "ผู้ใช้: สวัสดี\nผู้ช่วย: สวัสดี",
        "उपयोगकर्ता: नमस्ते\nसहायक: नमस्ते",
        "Người dùng: xin chào\nTrợ lý: chào",
        "Klient: Dzień dobry.\nKonsultant: W czym mogę pomóc?\nKlient: Szukam książki.",
        "Zorg: Hoi, hoe gaat het?\nBlarg: Goed!\nZorg: Mooi.\nBlarg: Ja.",
        "User 1: a\nUser 2: b",
    ],
)
def test_a_conversation_is_found_whatever_its_speakers_are_called(text: str) -> None:
    assert reason(text) == clean.ROLE_HEADER


@pytest.mark.parametrize(
    "text",
    [
        "Input: 3\nOutput: 9\nInput: 4\nOutput: which number?",
        "Name: Ada Lovelace\nAge: 36\nWrite a short biography.",
        "Question: who is it?\nAnswer: nobody.",
        "English: cat\nFrench: chat\nEnglish: dog\nFrench:",
        "User: how do I log in?",
        "Go on with this.\nAlice: Hi.\nBob: Hi.\nAlice: How are you?",
        "Tokyo: 10\nParis: 20\nTokyo: 30\nWhat is the mean?",
        "Task: write a poem.\nTopic: sea.\nStyle: calm.",
    ],
)
def test_lines_with_labels_are_no_conversation(text: str) -> None:
    assert reason(text) != clean.ROLE_HEADER
