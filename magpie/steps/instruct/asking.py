"""The request of `instruct.mode: ask`: a chat model is asked to write a message as a user would."""

from __future__ import annotations

_REQUEST = (
    "Write one message that a person might send to an AI assistant: a question, a task or a problem. Write only the "
    "message itself, in the words of that person, without a title, quotation marks or an answer."
)
_ABOUT = "\n\nAbout the person and the message: {prompt}"


def request_for(system: str | None) -> str:
    """The request; what would stand before the user's header, such as a steering prompt, says what to write about."""
    return _REQUEST if system is None else _REQUEST + _ABOUT.format(prompt=system)
