"""The Hub's own client, with a token that nothing shows, patience with what passes, and one line for what does not."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from magpie import secrets
from magpie.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Result = TypeVar("Result")
_logger = logging.getLogger(__name__)

_SECONDS = 120.0
"""How long a request may be silent. The client itself would wait for ever."""
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504}
CHANGED_SINCE = 412
"""What the Hub answers to a commit whose parent is no longer the head."""
_LOG_IN = "set HF_TOKEN to a token that may write, or log in with `hf auth login`"


def open_hub(endpoint: str | None = None) -> HfApi:
    """The client, with the token of the environment or of the client's own store. Raises HubError and SecretError."""
    from huggingface_hub import HfApi, get_session, get_token
    from huggingface_hub.errors import OfflineModeIsEnabled

    from magpie import __version__

    try:
        token = secrets.hub_token() or get_token()
    except (OSError, ValueError) as error:
        raise HubError(f"no token for the Hub was found ({first_line(error)}); {_LOG_IN}") from None
    if not token:
        raise HubError(f"no token for the Hub; {_LOG_IN}")
    try:
        get_session().timeout = _SECONDS
    except OfflineModeIsEnabled as error:
        raise HubError(explained(error)) from None
    return HfApi(
        endpoint=endpoint or os.environ.get("HF_ENDPOINT") or None,
        token=secrets.remember(token),
        library_name="magpie",
        library_version=__version__,
    )


@contextmanager
def quiet_client() -> Iterator[None]:
    """While the block runs, the client draws no bars and warns of no retry: what is to be known is said here."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from huggingface_hub.utils import logging as hub_logging

    shown, verbosity = not are_progress_bars_disabled(), hub_logging.get_verbosity()
    disable_progress_bars()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        if shown:
            enable_progress_bars()


@dataclass
class Patience:
    """How often, and after how many seconds, a request is made again. `say` is told of each wait."""

    tries: int = 8
    first: float = 1.0
    longest: float = 60.0
    say: Callable[[str], None] = field(default=lambda _: None)

    def call(self, what: str, ask: Callable[[], Result]) -> Result:
        """The answer to `ask`, asked again while that may help. Raises HubError: `what` could not be done."""
        number = 0
        while True:
            try:
                return ask()
            except HubError:
                raise
            except Exception as error:
                if not passes(error) or number + 1 >= self.tries:
                    raise HubError(f"cannot {what}: {explained(error)}") from None
                self.wait(number, error)
            number += 1

    def wait(self, number: int, error: BaseException) -> None:
        """Wait before try `number + 1`: as long as the Hub asks for, else twice as long as before."""
        seconds = asked_to_wait(error)
        if seconds is None:
            seconds = min(self.longest, self.first * 2**number)
        _logger.info("waiting %.1f s: %s", seconds, explained(error))
        self.say(f"waiting {seconds:.0f} s: {explained(error)}")
        time.sleep(seconds)


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    status = status_of(error)
    if status is not None:
        return status in _PASSING
    return any(isinstance(each, _connection_errors()) for each in causes(error)) or _is_of_xet(error)


def status_of(error: BaseException) -> int | None:
    """The Hub's status, be it the cause of what a thread or a transfer raised."""
    for each in causes(error):
        response = getattr(each, "response", None)
        if response is not None and isinstance(getattr(response, "status_code", None), int):
            return int(response.status_code)
    return None


def asked_to_wait(error: BaseException) -> float | None:
    """The seconds that the Hub asks to wait, an hour at most; None where it asks for none."""
    from huggingface_hub.utils import parse_ratelimit_headers

    for each in causes(error):
        headers = getattr(getattr(each, "response", None), "headers", None)
        if headers is None:
            continue
        limit = parse_ratelimit_headers(headers)
        if limit is not None and limit.remaining == 0:
            return float(min(3600.0, limit.reset_in_seconds + 1.0))
        after = str(headers.get("Retry-After", ""))
        if after.isdigit():
            return min(3600.0, float(after))
    return None


def explained(error: BaseException) -> str:
    """What went wrong on one line, and what to do about it where that is known; without any key."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    status, chain = status_of(error), causes(error)

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    said = _said(chain)
    known = (
        (is_any(OfflineModeIsEnabled), "HF_HUB_OFFLINE is set; unset it to reach the Hub"),
        (is_any(GatedRepoError), "the Hub says it is gated; ask its owner for access, or give another name"),
        (
            status == 401 and not is_any(RepositoryNotFoundError),
            f"the Hub does not take the token; {_LOG_IN}",
        ),
        (
            status == 403,
            f"the Hub refuses it ({said}); use a token that may write there, or another name",
        ),
        (status == 429, "the Hub takes no more requests for now (429)"),
        (status is not None, f"the Hub answers {status} ({said})"),
        (is_any(*_connection_errors()), f"the Hub cannot be reached ({first_line(chain[-1])})"),
    )
    return next((line for holds, line in known if holds), first_line(chain[-1]))


def causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__
    return chain


def first_line(error: BaseException) -> str:
    """The first line of an error, short, and without any key."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return secrets.redacted(lines[0] if lines else type(error).__name__)[:200]


def _said(chain: list[BaseException]) -> str:
    for each in chain:
        response: Any = getattr(each, "response", None)
        if response is not None:
            message = getattr(each, "server_message", None) or response.headers.get("X-Error-Message")
            if message:
                return secrets.redacted(" ".join(str(message).split()))[:200]
    return first_line(chain[0])


def _connection_errors() -> tuple[type[BaseException], ...]:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    # The client of the Hub's client: whichever of the two it is, all that it raises on the way is of this kind.
    transport = next(
        (kind for kind in HTTPError.__subclasses__() if kind.__name__ == "RequestError"), HfHubHTTPError
    )
    return (transport, ConnectionError, TimeoutError)


def _is_of_xet(error: BaseException) -> bool:
    """Whether it comes from the transfer by Xet, which tells passing errors from others in its text alone."""
    refused = ("401", "403", "Unauthorized", "Forbidden")
    kind, text = type(error), str(error)
    if kind.__name__ == "XetAuthenticationError":
        return not any(word in text for word in refused)
    return kind is RuntimeError and error.__cause__ is None and not any(word in text for word in refused)
