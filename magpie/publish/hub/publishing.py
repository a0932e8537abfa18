"""`magpie push` as a whole: what goes to the Hub is put together, checked, and pushed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magpie.errors import HubError
from magpie.publish.card.making import Card, make_card
from magpie.publish.hub.checks import Target, check_name, check_target
from magpie.publish.hub.client import Patience, open_hub, quiet_client
from magpie.publish.hub.parcel import CARD, Item
from magpie.publish.hub.push import Push, Pushed, Request
from magpie.publish.progress import Bar, no_bar
from magpie.publish.source import Part, Source, What
from magpie.runs.public import public

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CHECKSUMS = "checksums.json"
_DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants of a push; see `magpie push --help`."""

    repo: str
    what: What = "filtered"
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    license: str | None = None
    tokenizer: str | None = None
    replace: bool = False
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """What goes to the Hub, and its card."""

    card: Card
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.items)


@dataclass
class Publisher:
    """Publishes one dataset. `bar` draws progress, `patience` says how long a fault is waited for."""

    source: Source
    wish: Wish
    bar: Bar = no_bar
    patience: Patience = field(default_factory=Patience)

    def parcel(self, endpoint: str = _DEFAULT_ENDPOINT) -> Parcel:
        """All files that are to be on the Hub. Nothing is asked of the Hub. Raises MagpieError."""
        wish = self.wish
        check_name(wish.repo)
        parts = self.source.parts(wish.what)
        rows = self._checked(parts)
        card = make_card(
            self.source,
            what=wish.what,
            repo=wish.repo,
            endpoint=endpoint.rstrip("/"),
            revision=wish.revision or "main",
            license=wish.license,
            tokenizer=wish.tokenizer,
            checksums={path: (item.size, item.sha256) for path, item in rows.items()},
            bar=self.bar,
        )
        others: dict[str, bytes] = {CARD: card.text.encode(), **card.figures}
        for part in parts:
            others[f"{part.prefix}.manifest.json"] = _public_manifest(part)
        others[CHECKSUMS] = _checksums(rows)
        items = [*rows.values(), *(Item.of(path, content) for path, content in others.items())]
        return Parcel(card, tuple(sorted(items, key=lambda item: item.path)))

    def push(self) -> Pushed:
        """Push it. Raises HubError before anything is sent where the Hub would not take it, and MagpieError."""
        wish = self.wish
        check_name(wish.repo)
        with quiet_client():
            api = open_hub(wish.endpoint)
            target = self.target(api)
            parcel = self.parcel(str(api.endpoint))
            self._check_licence(parcel.card)
            self._check_front_matter(api, parcel.card)
            with self.bar(f"sending to {wish.repo}", parcel.size) as done:
                return Push(api, target, self.request(), self.patience).run(parcel.items, done)

    def target(self, api: HfApi) -> Target:
        """Where it goes. Raises HubError where this token may not push there."""
        wish = self.wish
        return check_target(
            api, wish.repo, create_pr=wish.create_pr, private=wish.private, patience=self.patience
        )

    def request(self) -> Request:
        """What the push is told."""
        wish = self.wish
        return Request(
            title=f"Upload {self.source.name} with magpie",
            recipe=self.source.name,
            private=wish.private,
            revision=wish.revision,
            create_pr=wish.create_pr,
            replace=wish.replace,
        )

    def _checked(self, parts: tuple[Part, ...]) -> dict[str, Item]:
        """The Parquet files with their checksums."""
        paths = {path: place for part in parts for path, place in part.paths.items()}
        found: dict[str, Item] = {}
        with self.bar("reading files", sum(place.stat().st_size for place in paths.values())) as done:
            for path, place in paths.items():
                found[path] = Item.of(path, place)
                done(found[path].size)
        return found

    def _check_licence(self, card: Card) -> None:
        if not card.terms.keys:
            unknown = ", ".join(card.terms.unknown)
            raise HubError(
                f"the licence of what {unknown or 'the generator'} writes is not known to magpie; read it, and name it "
                "with --license KEY, such as cc-by-4.0, or --license NAME=LINK"
            )

    def _check_front_matter(self, api: HfApi, card: Card) -> None:
        """Have the Hub look at the card's front matter. Raises HubError where it finds a fault."""
        from huggingface_hub import DatasetCard, constants

        # The card's own check asks the Hub of the environment; another one looks when it is given the card.
        if str(api.endpoint).rstrip("/") != constants.ENDPOINT.rstrip("/"):
            return

        def ask() -> None:
            try:
                DatasetCard(card.text).validate(repo_type="dataset")
            except ValueError as error:
                told = " ".join(str(error).split())
                raise HubError(
                    f"the Hub does not take the card's front matter ({told[:200]}); mend it"
                ) from None

        self.patience.call("have the card looked at", ask)


def _public_manifest(part: Part) -> bytes:
    """The manifest, without what is of this machine alone: paths, and the addresses of servers."""
    manifest = json.loads(part.manifest.to_json())
    if "about" in manifest:
        manifest["about"] = public(manifest["about"])
    return (json.dumps(manifest, indent=1) + "\n").encode()


def _checksums(items: Mapping[str, Item]) -> bytes:
    listed = {path: {"size": item.size, "sha256": item.sha256} for path, item in sorted(items.items())}
    return (json.dumps(listed, indent=1) + "\n").encode()
