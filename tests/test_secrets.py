"""What is taken out of a text before it is shown: keys, wherever they stand."""

from __future__ import annotations

import pytest

from magpie.secrets import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("get https://me:pw@host/v1", "get https://host/v1"),
        ("get https://me:p@ss@host:8000/v1?a=1", "get https://host:8000/v1?a=1"),
        ("get https://:p@ss!@host/", "get https://host/"),
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
