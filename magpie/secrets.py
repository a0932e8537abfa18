"""Keys and tokens: read from the environment, checked before they are used, and kept out of all that is shown."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from magpie.errors import MagpieError

HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""The variables that may hold a token of the hub, the first that is set counts."""

_HEADER = re.compile(r"[\x21-\x7e]+")
_KNOWN_NAMES = re.compile(r"(?:.*_)?(?:API_KEY|TOKEN|SECRET|PASSWORD|SECRET_ACCESS_KEY)", re.IGNORECASE)
# Up to the last `@` before a slash: a password may hold one itself, and marks that would end it in a valid address.
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s]*@", re.IGNORECASE)
# What an address is signed with, as links to files in a store are, or what it hands a key over with.
_QUERY = re.compile(
    r"([?&;](?:[\w.-]*(?:key|token|secret|password|passwd|signature|credential|policy)|sig|pwd|auth)=)[^&;\s'\"<>]+",
    re.IGNORECASE,
)
_BEARER = re.compile(
    r"(?i)(\bauthorization['\"]?\s*[:=]\s*|\bbearer\s+)['\"]?[^\s'\",;)\]}]+(\s+[^\s'\",;)\]}]+)?"
)
_SHORTEST = 6  # characters: a shorter one could be any word

_used: set[str] = set()


class SecretError(MagpieError):
    """A key or token cannot be used as it is."""


def from_environment(name: str) -> str | None:
    """The key in a variable, without the space around it; None where there is none. Raises SecretError.

    A key that is pasted or read from a file often ends in a line break, which no header may hold.
    """
    key = os.environ.get(name, "").strip()
    if not key:
        return None
    if _HEADER.fullmatch(key) is None:
        _used.add(key)
        raise SecretError(
            f"{name} holds a space, a line break or another character that no key has; set it again, to the key alone"
        )
    _used.add(key)
    return key


def hub_token() -> str | None:
    """The token for the hub, None where none is set. Raises SecretError."""
    return next((token for name in HUB_TOKENS if (token := from_environment(name))), None)


def remember(secret: str) -> str:
    """The same key, which is kept out of all that is shown from now on: one that no variable holds."""
    _used.add(secret)
    return secret


def redacted(text: str) -> str:
    """A text without any key: those that were used, those in the environment, and those in an address."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "[key]")
    text = _QUERY.sub(r"\1[key]", _USER.sub(r"\1", text))
    return _BEARER.sub(r"\1[key]", text)


def redacted_parts(value: Any) -> Any:
    """The same for every text in a value: in lists, tuples and dicts, at any depth."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: redacted_parts(part) for key, part in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(map(redacted_parts, value))
    return value


def start_log(level: int | str) -> None:
    """Have the log of this process written to standard error from `level` on, without keys."""
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    make = logging.getLogRecordFactory()
    # Once: a process that calls the command again and again would look for keys as often in each line.
    if not isinstance(make, RedactedRecords):
        logging.setLogRecordFactory(RedactedRecords(make))


@dataclass(frozen=True, slots=True)
class RedactedRecords:
    """Makes the records of a log: none holds a key, whichever library says it, tracebacks included.

    Where records are made, and not where they are written: libraries have handlers of their own.
    """

    make: Callable[..., logging.LogRecord]

    def __call__(self, *args: Any, **named: Any) -> logging.LogRecord:
        record = self.make(*args, **named)
        record.args = redacted_parts(record.args)
        try:
            message = record.getMessage()
            if redacted(message) != message:  # else the parts stay: formatters of other libraries read them
                record.msg, record.args = redacted(message), None
        except Exception:  # what does not fit, or cannot be shown: a handler says so, and its caller goes on
            return record
        if record.exc_info:
            record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
        return record


def _secrets() -> set[str]:
    """Every key that is known, as it is and as its parts would stand in a line."""
    found = set(_used)
    for name, value in os.environ.items():
        if _KNOWN_NAMES.fullmatch(name):
            found |= {value, value.strip(), *value.split()}
        elif name.upper().endswith("_PROXY") and "@" in value:
            parts = urlsplit(value)
            found |= {part for part in (parts.username, parts.password) if part}
    found |= {repr(secret)[1:-1] for secret in found}
    return {secret for secret in found if len(secret) >= _SHORTEST}
