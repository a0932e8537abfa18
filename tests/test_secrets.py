"""What is taken out of a text before it is shown: keys, wherever they stand."""

from __future__ import annotations

import io
import logging

import pytest

from magpie.secrets import RedactedRecords, redacted, redacted_parts, start_log


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("get https://me:pw@host/v1", "get https://host/v1"),
        ("get https://me:p@ss@host:8000/v1?a=1", "get https://host:8000/v1?a=1"),
        ("get https://:p@ss!@host/", "get https://host/"),
        ("through http://me:p#s?s@proxy:3128", "through http://proxy:3128"),
        ("redis+ssl://me:pw@host, http://a@b.c/d@e", "redis+ssl://host, http://b.c/d@e"),
        ("see https://host/who?mail=me@here.org", "see https://host/who?mail=me@here.org"),
        ("https://host/v1?api-key=abc&v=2", "https://host/v1?api-key=[key]&v=2"),
        ("'https://h/x?v=1&X-Amz-Signature=0a1b' is gone", "'https://h/x?v=1&X-Amz-Signature=[key]' is gone"),
        ("https://h/x?X-Amz-Security-Token=a%2Fb; next", "https://h/x?X-Amz-Security-Token=[key]; next"),
        ("https://h/x?sig=a&se=2027", "https://h/x?sig=[key]&se=2027"),
        ("https://h/x?max_tokens=5&design=b", "https://h/x?max_tokens=5&design=b"),
        ("Authorization: Basic bWU6cHc=, then", "Authorization: [key], then"),
    ],
)
def test_what_is_secret_in_an_address_goes_and_the_rest_stays(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_no_log_line_holds_a_key_whoever_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        logging, "_logRecordFactory", logging.getLogRecordFactory()
    )  # as it is now, afterwards too
    monkeypatch.setenv("SOME_TOKEN", "very-secret-word")
    start_log("WARNING")
    start_log("WARNING")
    make = logging.getLogRecordFactory()
    assert isinstance(make, RedactedRecords) and not isinstance(make.make, RedactedRecords)
    # Libraries write their own logs by handlers of their own, which nobody here knows.
    logger, said = logging.getLogger("somebodys"), io.StringIO()
    monkeypatch.setattr(logger, "propagate", False)
    handler = logging.StreamHandler(said)
    logger.addHandler(handler)
    try:
        logger.warning("sent %s to %s", "very-secret-word", "https://me:pw@host/")
        try:
            raise ValueError("bad token very-secret-word")
        except ValueError:
            logger.exception("it failed")
    finally:
        logger.removeHandler(handler)
    assert (
        "sent [key] to https://host/" in said.getvalue() and "ValueError: bad token [key]" in said.getvalue()
    )
    assert "very-secret" not in said.getvalue() and "pw@" not in said.getvalue()


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("closed already")


@pytest.mark.parametrize(("text", "parts"), [("%(a)s", ({"b": 1},)), ("%s", (Unshowable(),)), ("%d", ("x",))])
def test_a_faulty_log_line_of_a_library_ends_nobody(text: str, parts: tuple[object, ...]) -> None:
    make = RedactedRecords(logging.LogRecord)
    record = make("somebodys", logging.INFO, "file.py", 1, text, parts, None)
    assert record.msg == text


def test_formatters_find_the_parts_of_a_line_and_no_key_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "very-secret-word")
    make = RedactedRecords(logging.LogRecord)
    record = make(
        "access", 20, "file.py", 1, "%s - %s %d", ("127.0.0.1", "/?key=very-secret-word", 200), None
    )
    assert record.args == ("127.0.0.1", "/?key=[key]", 200)
    assert record.getMessage() == "127.0.0.1 - /?key=[key] 200"


def test_keys_go_from_texts_at_any_depth() -> None:
    said = {"phases": [{"why": "get https://me:pw@host/", "rows": 3}], "pair": ("https://a:b@c/", None)}
    shown = {"phases": [{"why": "get https://host/", "rows": 3}], "pair": ("https://c/", None)}
    assert redacted_parts(said) == shown
