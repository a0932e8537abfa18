"""The commands that give a dataset to others: its card, and the way to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magpie.cli.datasets import Dataset
from magpie.errors import RecipeError
from magpie.terminal import new_console, print_line
from magpie.text import counted

if TYPE_CHECKING:
    from magpie.publish.hub.publishing import Wish

License = Annotated[
    str | None,
    typer.Option(
        "--license",
        metavar="KEY",
        help="The licence that you give the dataset under: a key of the Hub, or NAME=LINK.",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Whose chat template counts tokens; the generator's by default."),
]


def card(
    run: Dataset,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; README.md beside the rows by default.")
    ] = None,
    license_: License = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Write the dataset's card, with figures."""
    from magpie import api

    print_line(
        str(api.card(run, out, license=license_, tokenizer=tokenizer, console=new_console(stderr=True)))
    )


def push(
    run: Dataset,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Its name on the Hub.")],
    what: Annotated[
        str, typer.Option(help="filtered: the kept rows; raw: all rows of a run; or both.")
    ] = "filtered",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch to push to; main by default.")
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose it, or add to the pull request that is open already.")
    ] = False,
    license_: License = None,
    tokenizer: Tokenizer = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what is there, be it of another recipe.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Follow the build: its progress on the card, then the rows.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card, the files and their sizes; send nothing.")
    ] = False,
) -> None:
    """Bring the dataset to the Hub, with its card. Stopped anywhere, it is run again."""
    from magpie import api
    from magpie.publish.hub.publishing import Wish
    from magpie.publish.source import WHATS

    if what not in WHATS:
        raise RecipeError(f"--what {what!r} is not known; use one of: {', '.join(WHATS)}")
    if live and create_pr:
        raise RecipeError("--live commits to a branch; leave out --create-pr")
    if dry_run:
        wish = Wish(repo, what, private, revision, create_pr, license_, tokenizer, replace)
        _print_dry_run(run, wish)
        return
    pushed = api.push(
        run,
        repo,
        what=what,
        private=private,
        revision=revision,
        create_pr=create_pr,
        license=license_,
        tokenizer=tokenizer,
        replace=replace,
        live=live,
        console=new_console(stderr=True),
    )
    changes = [f"{counted(pushed.sent, 'file')} sent"] if pushed.sent else []
    changes += [f"{pushed.deleted:,} of an earlier push deleted"] if pushed.deleted else []
    print_line(f"{pushed.url}: {', '.join(changes) or 'all of it was there already'}, checksums agree")


def _print_dry_run(run: Path, wish: Wish) -> None:
    from magpie.publish.hub.publishing import Publisher
    from magpie.publish.progress import bar_on
    from magpie.publish.source import open_source

    parcel = Publisher(open_source(run), wish, bar=bar_on(new_console(stderr=True))).parcel()
    print_line(parcel.card.text)
    for item in parcel.items:
        print_line(f"{item.size:>15,}  {item.path}")
    print_line(f"{parcel.size:>15,}  bytes in {len(parcel.items):,} files, to {wish.repo}; nothing was sent")
    if not parcel.card.terms.keys:
        print_line(
            "The licence is not known: a push asks for --license KEY, such as cc-by-4.0, or --license NAME=LINK.",
            stderr=True,
        )
