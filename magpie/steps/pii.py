"""Finds what may belong to a person: e-mail addresses, phone numbers, and keys, tokens and passwords.

What such a thing looks like is known to libraries that are kept up to date: email-validator and the Public Suffix List
(tldextract), phonenumbers, and detect-secrets. None of them goes online here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from magpie.recipe import Pii, PiiKind, Recipe
from magpie.steps.base import REJECTED, RowStep, RowWork, Tools, live, spread

if TYPE_CHECKING:
    from detect_secrets.plugins.base import RegexBasedDetector

KINDS: tuple[PiiKind, ...] = ("email", "phone", "secret")
"""What is found, in the order in which it is named."""

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

# The columns that may answer an instruction, in the order in which they are looked at.
_ANSWERS = (
    "response", "reasoning", "later_turns", "later_reasoning", "candidates", "candidate_reasoning", "base_response",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """Something found at `text[start:end]`."""

    kind: PiiKind
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PiiStep(RowStep, RowWork[None]):
    """Adds what was found in the instruction (`pii`) or in all that answers it (`response_pii`): kinds, or null.

    `place` is which of the two, and `columns` are the texts looked at, as the steps before added them. What answers is
    the response, its later turns (the user's messages among them), the candidates of a pair and the base model's
    answer, as far as the recipe has them.
    `action: reject` also rejects the row, as "pii: email, phone"; `action: redact` adds the texts anew, each thing
    found replaced by its kind, such as [EMAIL], so that no later step and no dataset sees it. Rows that are out keep
    their texts.
    """

    part: Pii
    place: Literal["instruction", "response"]
    columns: tuple[pa.Field, ...]

    section = "pii"

    @classmethod
    def plan_instruction(cls, recipe: Recipe, columns: pa.Schema) -> tuple[PiiStep, ...]:
        """The step that looks at the instruction, where the recipe asks for it."""
        part = recipe.pii
        if part is None or "instruction" not in part.columns:
            return ()
        return (cls(part, "instruction", (columns.field("instruction"),)),)

    @classmethod
    def plan_answers(cls, recipe: Recipe, columns: pa.Schema) -> tuple[PiiStep, ...]:
        """The step that looks at all that answers, where there is any and the recipe asks for it."""
        part = recipe.pii
        answers = tuple(columns.field(name) for name in _ANSWERS if name in columns.names)
        if part is None or "response" not in part.columns or not answers:
            return ()
        return (cls(part, "response", answers),)

    @property
    def name(self) -> str:
        """`pii` or `response_pii`, which is also the column."""
        return "pii" if self.place == "instruction" else "response_pii"

    @property
    def reads(self) -> tuple[str, ...]:
        """The texts of its place."""
        return tuple(field.name for field in self.columns)

    @property
    def adds(self) -> pa.Schema:
        """What was found; where rows are rejected or redacted, what becomes of them."""
        fields = [pa.field(self.name, pa.list_(pa.string()))]
        if self.part.action == "reject":
            fields.append(REJECTED)
        if self.part.action == "redact":
            fields += self.columns
            if "response" in self.reads:
                fields.append(pa.field("response_length", pa.int32()))
        return pa.schema(fields)

    @property
    def settings(self) -> dict[str, Any]:
        """What is looked for, what is done about it, and in which answers."""
        settings = {
            **self.part.model_dump(mode="json", exclude={"columns"}),
            "extended": "later_turns" in self.reads,
        }
        if "candidates" in self.reads:
            settings |= {"candidates": True, "responded": "response" in self.reads}
        return settings | ({"baselined": True} if "base_response" in self.reads else {})

    @property
    def bytes_per_row(self) -> int:
        return 2

    def bind(self, _: Tools) -> PiiStep:
        return self

    async def run(self, rows: pa.Table, _: None) -> pa.Table:
        """Looks in a thread, so that an engine fed by the same event loop is not kept waiting."""
        return await asyncio.to_thread(self._look, rows)

    def _look(self, rows: pa.Table) -> pa.Table:
        at = live(rows)
        texts: dict[str, list[Any]] = {name: rows[name].to_pylist() for name in self.reads}
        kinds_of_rows: list[list[str] | None] = []
        for row in at:
            kinds: set[str] = set()
            for values in texts.values():
                values[row] = _each_text(values[row], partial(self._redacted, kinds=kinds))
            kinds_of_rows.append([kind for kind in KINDS if kind in kinds] or None)
        reasons = [None if kinds is None else f"{self.name}: {', '.join(kinds)}" for kinds in kinds_of_rows]
        columns: dict[str, list[Any]] = {self.name: kinds_of_rows, REJECTED.name: reasons}
        first = pa.schema([field for field in self.adds if field.name in columns])
        result = spread(rows, at, columns, first)
        if self.part.action == "redact":
            if "response" in self.reads:
                texts["response_length"] = [None if text is None else len(text) for text in texts["response"]]
            for name in self.adds.names[len(first) :]:
                result = result.append_column(name, pa.array(texts[name], self.adds.field(name).type))
        return result

    def _redacted(self, text: str, kinds: set[str]) -> str:
        """The text with placeholders; what was found is added to `kinds`."""
        for match in reversed(
            find(text, self.part)
        ):  # from the end, so that earlier places stay where they are
            kinds.add(match.kind)
            text = f"{text[: match.start]}[{match.kind.upper()}]{text[match.end :]}"
        return text


def find(text: str, part: Pii) -> list[Found]:
    """What `part` looks for in the text, by place; things found do not overlap.

    An address or number that is written as an example (user@example.com, 555-0100) is found like any other. A phone
    number without its country's code is one of `phone_region`, and written like 650-253-0000: digits alone or in
    groups, and those with a sign between spaces, are numbers in a problem far more often.
    """
    looks: dict[PiiKind, Iterator[tuple[int, int]]] = {
        "secret": _secrets(text),
        "email": _emails(text),
        "phone": _phones(text, part.phone_region),
    }
    found: list[Found] = []
    for kind, spans in looks.items():
        if kind in part.kinds:
            for start, end in spans:
                if all(end <= other.start or start >= other.end for other in found):
                    found.append(Found(kind, start, end))
    return sorted(found, key=lambda one: one.start)


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A text, a list of texts or a list of messages, each text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(one, change) for one in value]
    if isinstance(value, dict):
        return {**value, "content": _each_text(value["content"], change)}
    return value


def _emails(text: str) -> Iterator[tuple[int, int]]:
    """An @ between a name and a domain below a public suffix: `A@B.T` is a product of matrices."""
    at = text.find("@")
    while at >= 0:
        start, end = at, at + 1
        while start > 0 and (_is_letter(text[start - 1]) or text[start - 1] in _IN_NAME):
            start -= 1
        while end < len(text) and (_is_letter(text[end]) or text[end] in _IN_DOMAIN):
            end += 1
        start += len(text[start:at]) - len(text[start:at].lstrip(_IN_NAME))
        end -= len(text[at:end]) - len(text[at:end].rstrip(_IN_DOMAIN))
        if _is_address(text[start:at], text[at + 1 : end]):
            yield start, end
        at = text.find("@", at + 1)


def _is_letter(sign: str) -> bool:
    """A digit or a Latin letter: in scripts without spaces, an address stands right beside other words."""
    return sign.isalnum() and sign < "\u0250"


def _is_address(name: str, domain: str) -> bool:
    if not name or "." not in domain or name == "git":  # git@github.com is how a repository is reached
        return False
    from email_validator import EmailNotValidError, validate_email

    try:
        validate_email(f"{name}@{domain}", check_deliverability=False)
    except EmailNotValidError:
        return False
    return bool(_suffixes()(domain).suffix)


def _phones(text: str, region: str | None) -> Iterator[tuple[int, int]]:
    if sum(map(str.isdecimal, text)) < 7:  # the fewest that a subscriber's number has
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    for match in PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING):
        pieces = match.raw_string.split()
        marked = not all(map(str.isdecimal, pieces)) and not any(
            len(one) == 1 and one in "-–./" for one in pieces
        )
        if match.raw_string.startswith("+") or marked:
            yield match.start, match.end


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    for detector in _detectors():
        for pattern in detector.denylist:
            for match in pattern.finditer(text):
                if any(True for _ in detector.analyze_string(match[0])):
                    yield _whole(text, *match.span(1 if "://[^" in pattern.pattern else 0))


def _whole(text: str, start: int, end: int) -> tuple[int, int]:
    """The whole of a secret that was known by its beginning."""
    if _KEY_ENDS in text[start:end]:
        closing = text.find("-----END", end)
        last = text.find("-----", closing + 8) if closing >= 0 else -1
        return start, len(text) if last < 0 else last
    while end < len(text) and (text[end].isalnum() or text[end] in _IN_SECRET):
        end += 1
    return start, start + len(text[start:end].rstrip("."))


@cache
def _detectors() -> tuple[RegexBasedDetector, ...]:
    found = []
    for place in _DETECTORS:
        module, _, name = place.partition(".")
        found.append(getattr(import_module(f"detect_secrets.plugins.{module}"), name)())
    return tuple(found)


@cache
def _suffixes() -> Any:
    """The Public Suffix List that tldextract ships, never fetched."""
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)
