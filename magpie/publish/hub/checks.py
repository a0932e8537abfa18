"""Whether a push may go where it is to go: asked before anything is sent, and answered in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from magpie.errors import HubError
from magpie.publish.hub.client import Patience, explained, status_of
from magpie.publish.hub.parcel import CARD, MANIFESTS, others

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

MARK = "<!-- card by magpie -->"
"""What stands in every card that is made here, by which a repository is known to be one of ours."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a push goes: whose token it is, and whether the repository is there already."""

    name: str
    user: str
    is_there: bool


def check_name(name: str) -> str:
    """The repository's name. Raises HubError unless it is one that the Hub takes, such as org/name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    advice = "give OWNER/NAME, where NAME has letters, digits, '-', '_' and '.', such as me/my-dataset"
    if name.count("/") != 1 or not all(name.split("/")):
        raise HubError(f"{name!r} is no name of a dataset on the Hub; {advice}")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise HubError(f"the Hub takes no name such as {name!r}; {advice}") from None
    return name


def check_target(
    api: HfApi, name: str, *, create_pr: bool, patience: Patience, private: bool = False
) -> Target:
    """Who pushes, and whether they may. Raises HubError where they may not, or where `private` cannot be had."""
    account = patience.call("ask the Hub whose token this is", api.whoami)
    user = str(account.get("name", ""))
    is_private = _is_private(api, name, patience)
    if is_private is not None:
        if private and not is_private:
            raise HubError(
                f"{name} is there already, and public; make it private on its page, or give another name"
            )
        if not create_pr:
            # A pull request is opened by anybody who may read.
            _check_may_write(api, name, user, patience)
        return Target(name, user, is_there=True)
    _check_may_create(account, name)
    return Target(name, user, is_there=False)


def check_contents(
    api: HfApi,
    name: str,
    revision: str,
    there: Mapping[str, RepoFile],
    *,
    recipe: str,
    replace: bool,
    patience: Patience,
) -> None:
    """Raise HubError where the repository holds something other than an earlier push of the same recipe's rows."""
    if replace:
        return

    def read(path: str) -> bytes:
        with TemporaryDirectory() as folder:  # and not the cache of models and datasets
            download = partial(
                api.hf_hub_download, name, path, repo_type="dataset", revision=revision, cache_dir=folder
            )
            return Path(patience.call(f"read {path} of {name}", download)).read_bytes()

    manifests = [path for path in MANIFESTS if path in there]
    for path in manifests:
        theirs = _recipe_in(read(path))
        if theirs not in {None, recipe}:
            raise HubError(
                f"{name} holds the dataset of another recipe ({theirs}); give another name, or --replace it"
            )
    other = others(there)
    if other:
        raise HubError(
            f"{name} is taken, and holds other things ({other[0]}); give another name, or add to them with --replace"
        )
    # A card that was pushed while a build was at work has no manifest beside it yet.
    if not manifests and CARD in there and MARK.encode() not in read(CARD):
        raise HubError(
            f"{name} is taken, and has a card that is not magpie's; give another name, or --replace it"
        )


def _is_private(api: HfApi, name: str, patience: Patience) -> bool | None:
    """Whether the repository is private; None where there is none."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def ask() -> bool | None:
        try:
            return bool(api.repo_info(name, repo_type="dataset").private)
        except GatedRepoError:  # which is a RepositoryNotFoundError, and is there
            raise
        except RepositoryNotFoundError:
            return None

    return patience.call(f"look at {name}", ask)


def _check_may_write(api: HfApi, name: str, user: str, patience: Patience) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    def ask() -> None:
        try:
            api.auth_check(name, repo_type="dataset", write=True)
        except HfHubHTTPError as error:
            if status_of(error) in {401, 403, 404} and "gated" not in explained(error):
                raise HubError(
                    f"{user} may not write to {name}; use a token of somebody who may, give another name, or "
                    "propose it with --create-pr"
                ) from None
            raise

    patience.call(f"push to {name}", ask)


def _check_may_create(account: Mapping[str, Any], name: str) -> None:
    owner, user = name.partition("/")[0], str(account.get("name", ""))
    organizations = {str(each.get("name")): each for each in account.get("orgs") or ()}
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise HubError(
            "the token may only read; make one that may write on the Hub's page of tokens, and set HF_TOKEN to it"
        )
    if owner != user and owner not in organizations:
        raise HubError(
            f"{user} cannot make {name}: it is neither their own account nor one of their organizations "
            f"({', '.join(sorted(organizations)) or 'none'}); give {user}/{name.partition('/')[2]}, or another name"
        )
    if owner != user and organizations[owner].get("roleInOrg") == "read":
        raise HubError(
            f"{user} may only read in {owner}; ask its owner for the right to write, or give another name"
        )


def _recipe_in(manifest: bytes) -> str | None:
    try:
        return str(json.loads(manifest)["about"]["recipe"]["name"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
