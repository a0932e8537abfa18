"""Where a text holds e-mail addresses, phone numbers, and keys, tokens and passwords.

The forms of these are known to libraries that are kept up to date: email-validator and the Public Suffix List
(tldextract), phonenumbers, and detect-secrets. None of them goes online here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from magpie.recipe import Pii, PiiKind

if TYPE_CHECKING:
    from detect_secrets.plugins.base import RegexBasedDetector

# The detectors of detect-secrets that know a secret by its form. Those that go by entropy, by a word such as
# "password" beside it, or by few letters take prose and code for secrets.
_DETECTORS = (
    "aws.AWSKeyDetector", "azure_storage_key.AzureStorageKeyDetector", "basic_auth.BasicAuthDetector",
    "discord.DiscordBotTokenDetector", "github_token.GitHubTokenDetector", "gitlab_token.GitLabTokenDetector",
    "jwt.JwtTokenDetector", "mailchimp.MailchimpDetector", "npm.NpmDetector", "openai.OpenAIDetector",
    "private_key.PrivateKeyDetector", "pypi_token.PypiTokenDetector", "sendgrid.SendGridDetector",
    "slack.SlackDetector", "square_oauth.SquareOAuthDetector", "stripe.StripeDetector",
    "telegram_token.TelegramBotTokenDetector", "twilio.TwilioKeyDetector",
)  # fmt: skip
_IN_SECRET = "-_.+/="  # noqa: S105 - besides letters and digits
_IN_NAME = "._%+-"
_IN_DOMAIN = ".-"
_KEY_ENDS = "PRIVATE KEY"

_FEWEST_DIGITS = 7  # of a phone number: what a subscriber's number has at least


@dataclass(frozen=True, slots=True)
class Found:
    """Something found at `text[start:end]`."""

    kind: PiiKind
    start: int
    end: int


def find(text: str, part: Pii) -> list[Found]:
    """What `part` looks for in the text, by place; what is found does not overlap.

    An address or number that is written as an example (user@example.com, 555-0100) is found like any other. A phone
    number without its country's code is one of `phone_region`, and written like 650-253-0000.
    """
    # Secrets come first: a URL with a password in it has an @ and could be taken for an address, and a token holds
    # enough digits for a phone number.
    searches: dict[PiiKind, Iterator[tuple[int, int]]] = {
        "secret": _secrets(text),
        "email": _emails(text),
        "phone": _phones(text, part.phone_region),
    }
    matches: list[Found] = []
    for kind, spans in searches.items():
        # Each search is a generator: one that is not asked for costs nothing, and loads no library.
        if kind in part.kinds:
            for start, end in spans:
                if all(end <= match.start or start >= match.end for match in matches):
                    matches.append(Found(kind, start, end))
    return sorted(matches, key=lambda match: match.start)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    """Where an @ stands between a name and a domain below a public suffix."""
    # From each @ to both sides, as far as an address can go. A pattern over the whole text would have to say where
    # addresses begin, and in Chinese or Japanese they begin without a space before them.
    at = text.find("@")
    while at >= 0:
        start, end = at, at + 1
        while start > 0 and (_is_letter(text[start - 1]) or text[start - 1] in _IN_NAME):
            start -= 1
        while end < len(text) and (_is_letter(text[end]) or text[end] in _IN_DOMAIN):
            end += 1
        # Dots and dashes at either end belong to the sentence: "write to -bob@mail.com."
        start += len(text[start:at]) - len(text[start:at].lstrip(_IN_NAME))
        end -= len(text[at:end]) - len(text[at:end].rstrip(_IN_DOMAIN))
        if _is_address(text[start:at], text[at + 1 : end]):
            yield start, end
        at = text.find("@", at + 1)


def _is_letter(character: str) -> bool:
    """Whether it is a digit or a Latin letter; other letters are those of a word beside the address."""
    return character.isalnum() and character < "\u0250"  # the first character after Latin Extended-B


def _is_address(name: str, domain: str) -> bool:
    if not name or "." not in domain or name == "git":  # git@github.com is how a repository is reached
        return False
    from email_validator import EmailNotValidError, validate_email

    try:
        validate_email(f"{name}@{domain}", check_deliverability=False)
    except EmailNotValidError:
        return False
    # A valid form is not enough: `A@B.T` is a product of matrices, and "T" is no public suffix.
    return bool(_suffixes()(domain).suffix)


def _phones(text: str, region: str | None) -> Iterator[tuple[int, int]]:
    """Where a phone number of `region` stands, or one of any country with its code."""
    # Most texts end here, before the search, which is slow.
    if sum(map(str.isdecimal, text)) < _FEWEST_DIGITS:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    # STRICT_GROUPING wants the digits in the groups of the number's country: other leniencies find numbers in tables.
    for match in PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING):
        # Without a country's code, digits alone or in groups ("1234567", "650 253 0000") are numbers in a problem far
        # more often, and so are those with a sign between spaces ("650 - 253").
        pieces = match.raw_string.split()
        has_marks = not all(map(str.isdecimal, pieces)) and not any(
            len(piece) == 1 and piece in "-–./" for piece in pieces
        )
        if match.raw_string.startswith("+") or has_marks:
            yield match.start, match.end


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    """Where a key, a token or a password stands."""
    for detector in _detectors():
        for pattern in detector.denylist:
            for match in pattern.finditer(text):
                # `analyze_string` says what the secret is but not where, and some detectors check more in it than
                # their pattern does: a match counts if it says anything.
                if any(True for _ in detector.analyze_string(match[0])):
                    # The pattern of a URL with a password holds the password as its first group; in all other
                    # patterns the whole match is the secret.
                    yield _whole(text, *match.span(1 if "://[^" in pattern.pattern else 0))


def _whole(text: str, start: int, end: int) -> tuple[int, int]:
    """The whole of a secret that was recognized by its beginning."""
    # Of a private key the pattern matches the first line: all up to its last line is secret, or all the rest of the
    # text where the last line is not there.
    if _KEY_ENDS in text[start:end]:
        closing = text.find("-----END", end)
        last = text.find("-----", closing + 8) if closing >= 0 else -1
        return start, len(text) if last < 0 else last
    # Many patterns match a fixed number of characters: the rest of a longer token would stay in the text.
    while end < len(text) and (text[end].isalnum() or text[end] in _IN_SECRET):
        end += 1
    return start, start + len(text[start:end].rstrip("."))


@cache
def _detectors() -> tuple[RegexBasedDetector, ...]:
    detectors = []
    for place in _DETECTORS:
        module, _, name = place.partition(".")
        detectors.append(getattr(import_module(f"detect_secrets.plugins.{module}"), name)())
    return tuple(detectors)


@cache
def _suffixes() -> Any:
    """The Public Suffix List that tldextract ships, never fetched."""
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)
