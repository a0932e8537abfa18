"""The section `bootstrap` of `method: self-instruct`: how a model writes tasks after the example of others."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from magpie.recipe.base import Role, Section, Text

Speech = Literal["plain", "chat"]


class Bootstrap(Section):
    """A model goes on with numbered lists of tasks, in rounds: what a round adds may be shown in later ones.

    A shard of rows is a round, and a row is a place for one task. The settings are the published ones (arXiv
    2212.10560).
    """

    model: Role = "generator"
    """The role that writes the tasks."""
    speech: Speech = "plain"
    """`plain` gives the model the bare list to go on with. `chat` asks for the list in its chat format."""
    seeds: Text | None = None
    """A file with the tasks to begin with, in the form of docs/self-instruct.md. null are the 175 that ship."""
    heading: Text | None = None
    """The line above the list; in a chat format, the request for it. null is our own."""
    shots: int = Field(default=8, ge=1)
    """How many tasks a prompt shows."""
    machine_shots: int = Field(default=2, ge=0)
    """How many of them are tasks that earlier rounds made, as far as there are any. The others are seeds."""
    tasks: int = Field(default=7, ge=1)
    """How many new tasks are taken from one prompt: with 8 shots, those numbered 9 to 15."""
    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature. 0 always takes the most likely token."""
    top_p: float = Field(default=0.5, gt=0, le=1)
    """Sample only from the most likely tokens, whose probabilities add up to this. 1 keeps all tokens."""
    top_k: int = Field(default=0, ge=0, le=2**31 - 1)
    """Sample only from this many of the most likely tokens. 0 keeps all tokens."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Leave out tokens less likely than this fraction of the most likely token. 0 keeps all tokens."""
    presence_penalty: float = Field(default=2.0, ge=-2, le=2)
    """Taken from the logit of every token that the text has already. 0 is off."""
    max_tokens: int = Field(default=1024, ge=1)
    """The most tokens that are written after one prompt."""
    stop: tuple[Text, ...] = ("\n\n",)
    """Texts that end a list, besides the number after the last task."""
    cut: Literal["all", "last"] = "all"
    """What is thrown away of a list that was cut by length: all of it, or the task that was cut."""
    accepted: int | None = Field(default=None, ge=1)
    """Ask for no more when so many tasks are accepted; the places that are left stay empty. null is no bound."""
    stop_repetition: bool | None = None
    """End a text that repeats itself without end. null does so if the engine can."""

    def check(self, recipe: Any) -> None:
        """No more may come from a machine than are shown."""
        if self.machine_shots > self.shots:
            raise ValueError(
                f"`bootstrap.machine_shots` is {self.machine_shots} and `bootstrap.shots` only {self.shots}; "
                "show more, or take fewer of the machine's"
            )
