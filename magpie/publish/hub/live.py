"""A card on the Hub that follows a build: its progress is committed there until the run is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magpie.errors import HubError
from magpie.figures.status import Status, status
from magpie.publish.card.rendering import render_progress
from magpie.publish.hub.checks import Target, check_name, check_target
from magpie.publish.hub.client import Patience, open_hub, quiet_client
from magpie.publish.hub.parcel import CARD, MANIFESTS, Item
from magpie.publish.hub.publishing import Wish
from magpie.publish.hub.push import Push, Request
from magpie.runs.run import Run

if TYPE_CHECKING:
    from huggingface_hub import HfApi

EVERY = 300.0
"""Seconds between two looks at the run. The Hub counts commits by the hour."""


@dataclass
class Follower:
    """Follows the build of `run`, and returns when it is finished."""

    run: Run
    wish: Wish
    every: float = EVERY
    say: Callable[[str], None] = field(default=lambda _: None)
    patience: Patience = field(default_factory=Patience)

    def follow(self) -> None:
        """Raises HubError where no build is at work, or where the repository holds a finished dataset."""
        check_name(self.wish.repo)
        with quiet_client():
            api = open_hub(self.wish.endpoint)
            target = check_target(
                api, self.wish.repo, create_pr=False, private=self.wish.private, patience=self.patience
            )
            if target.is_there:
                self._refuse_finished(api, target)
            shown = ""
            while (now := status(self.run)).kept is None:
                if self.run.storage.holder() is None:
                    raise HubError(
                        f"no build is at work in {self.run.storage.location}, and it is not finished; run the build "
                        "again, and then the same push"
                    )
                text = progress_card(now)
                if text != shown:
                    self._commit(api, target, text)
                    target, shown = Target(target.name, target.user, is_there=True), text
                    self.say(_line(now))
                time.sleep(self.every)

    def _commit(self, api: HfApi, target: Target, text: str) -> None:
        wish = self.wish
        request = Request(
            title=f"Progress of {self.run.recipe.name}",
            recipe=self.run.recipe.name,
            private=wish.private,
            revision=wish.revision,
            replace=wish.replace,
        )
        Push(api, target, request, self.patience).run([Item.of(CARD, text.encode())], alone=False)

    def _refuse_finished(self, api: HfApi, target: Target) -> None:
        revision = self.wish.revision or "main"

        def ask() -> bool:
            from huggingface_hub.errors import RevisionNotFoundError

            try:
                entries = api.list_repo_tree(target.name, repo_type="dataset", revision=revision)
                return any(entry.path in MANIFESTS for entry in entries)
            except RevisionNotFoundError:
                return False

        if self.patience.call(f"read what is in {target.name}", ask):
            raise HubError(
                f"{target.name} holds a finished dataset, whose card is not to be lost; push without --live when the "
                "build is done, or give another name"
            )


def progress_card(now: Status) -> str:
    """The card of a dataset whose build has come so far."""
    from huggingface_hub import DatasetCardData

    return render_progress(DatasetCardData(pretty_name=now.recipe, tags=["synthetic", "magpie"]), now)


def _line(now: Status) -> str:
    done, total = (sum(getattr(step, name) for step in now.steps) for name in ("shards_done", "shards"))
    return f"{done:,} of {total:,} shards are done"
