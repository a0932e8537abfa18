"""A push: large files first, then one commit for all that makes them a dataset.

Whatever happens on the way, the same command run again ends in the same repository. What is there by its checksum is
not sent again. A commit names its parent; when its reply is lost, or another commit came first, the head is read, and
only what it still lacks is committed. An open pull request of an earlier push is added to, and no second one is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magpie.errors import HubError
from magpie.publish.hub.checks import Target, check_contents
from magpie.publish.hub.client import CHANGED_SINCE, Patience, explained, passes, status_of
from magpie.publish.hub.parcel import Difference, Item, difference

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import RepoFile

_AT_ONCE = 256 << 20
"""Bytes of one transfer: what may have to be sent again when it is cut, and how often the bar moves."""
_MOST_AT_ONCE = 50

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. `commit` is the head that has the items; `url` is that of the repository or pull request."""

    url: str
    commit: str
    sent: int
    deleted: int

    @property
    def is_new(self) -> bool:
        """Whether anything was changed by this push."""
        return bool(self.sent or self.deleted)


@dataclass(frozen=True, slots=True)
class Request:
    """What to push where: `title` is that of the commit, by which an open pull request is known again.

    `recipe` names what the rows are of, and `replace` allows them to take the place of others.
    """

    title: str
    recipe: str
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    replace: bool = False


class Push:
    """One push of `items` to a repository that `checks.check_target` has looked at."""

    def __init__(self, api: HfApi, target: Target, request: Request, patience: Patience) -> None:
        self._api, self._target, self._request, self._patience = api, target, request, patience
        self._name = target.name
        # Once its content is sent, an operation is used again, so that no file is read a second time.
        self._operations: dict[str, CommitOperationAdd] = {}

    def run(self, items: Sequence[Item], on_bytes: OnBytes = lambda _: None, *, alone: bool = True) -> Pushed:
        """Bring the repository to have the items; how many files were sent and deleted. Raises HubError.

        `alone` deletes what an earlier push left and this one has not.
        """
        self._make_ready()
        revision, opens = self._revision()
        done = Difference((), ())
        made = ""
        for number in range(self._patience.tries):
            head, there = self._head(revision)
            if number == 0 and not opens:
                self._check(head, there)
            missing = difference(items, there, alone=alone)
            if not missing:
                return Pushed(self._url(revision), head, len(done.add), len(done.delete))
            if head == made:
                first = (*(item.path for item in missing.add), *missing.delete)[0]
                raise HubError(
                    f"{self._name} has other bytes than were sent ({first}); run the same command again"
                )
            self._upload(missing, revision, opens, on_bytes)
            done = missing
            try:
                commit = self._commit(missing, revision, head, opens)
            except Exception as error:
                if (
                    not (passes(error) or status_of(error) == CHANGED_SINCE)
                    or number + 1 == self._patience.tries
                ):
                    raise HubError(f"cannot commit to {self._name}: {explained(error)}") from None
                # It may have been done, and only the reply been lost: the head says.
                self._patience.wait(number, error)
                if opens:
                    revision, opens = self._revision()
            else:
                made, self._operations = commit.oid, {}
                revision, opens = (commit.pr_revision or revision), False
        raise HubError(
            f"{self._name} is changed by others all the time; run the same command again when they are done"
        )

    def _make_ready(self) -> None:
        """The repository and the branch, made where they are not there."""
        request, api = self._request, self._api
        if not self._target.is_there:
            self._patience.call(
                f"make {self._name}",
                lambda: api.create_repo(
                    self._name, repo_type="dataset", private=request.private or None, exist_ok=True
                ),
            )
        # Pull requests, too, are revisions, such as refs/pr/3; they are there, or cannot be made.
        if (
            request.revision is not None
            and not request.create_pr
            and not request.revision.startswith("refs/")
        ):
            branch = request.revision
            self._patience.call(
                f"make the branch {branch}",
                lambda: api.create_branch(self._name, branch=branch, repo_type="dataset", exist_ok=True),
            )

    def _revision(self) -> tuple[str, bool]:
        """Where to commit, and whether that is to open a pull request: not where one of ours is open already."""
        branch = self._request.revision or "main"
        if not self._request.create_pr:
            return branch, False
        found = self._patience.call(f"look for pull requests of {self._name}", self._own_pull_requests)
        return (f"refs/pr/{found[-1]}", False) if found else (branch, True)

    def _own_pull_requests(self) -> list[int]:
        discussions = self._api.get_repo_discussions(
            self._name, repo_type="dataset", author=self._target.user, discussion_type="pull_request"
        )
        return sorted(
            discussion.num
            for discussion in discussions
            if discussion.is_pull_request
            and discussion.status in {"open", "draft"}
            and discussion.title == self._request.title
        )

    def _head(self, revision: str) -> tuple[str, dict[str, RepoFile]]:
        """The latest commit of a revision, and its files by their paths."""
        from huggingface_hub.hf_api import RepoFile

        def ask() -> tuple[str, dict[str, RepoFile]]:
            head = self._api.repo_info(self._name, repo_type="dataset", revision=revision).sha
            entries = self._api.list_repo_tree(self._name, repo_type="dataset", revision=head, recursive=True)
            return str(head), {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

        return self._patience.call(f"read what is in {self._name}", ask)

    def _check(self, head: str, there: Mapping[str, RepoFile]) -> None:
        request = self._request
        check_contents(
            self._api,
            self._name,
            head,
            there,
            recipe=request.recipe,
            replace=request.replace,
            patience=self._patience,
        )

    def _upload(self, missing: Difference, revision: str, opens: bool, on_bytes: OnBytes) -> None:
        """Send the contents of large files. Nobody sees them before the commit, and the Hub takes each one once."""
        new = [item for item in missing.add if item.path not in self._operations]
        for batch in _batches(new):
            operations = [_addition(item) for item in batch]

            def send(operations: Sequence[CommitOperationAdd] = operations) -> None:
                self._api.preupload_lfs_files(
                    self._name, operations, repo_type="dataset", revision=revision, create_pr=opens
                )

            self._patience.call(f"send {batch[0].path}", send)
            self._operations |= {item.path: each for item, each in zip(batch, operations, strict=True)}
            on_bytes(sum(item.size for item in batch))

    def _commit(self, missing: Difference, revision: str, head: str, opens: bool) -> CommitInfo:
        from huggingface_hub import CommitOperationDelete

        operations = [
            *(self._operations[item.path] for item in missing.add),
            *(CommitOperationDelete(path) for path in missing.delete),
        ]
        return self._api.create_commit(
            self._name,
            operations,
            commit_message=self._request.title,
            repo_type="dataset",
            revision=revision,
            parent_commit=head,
            create_pr=opens,
        )

    def _url(self, revision: str) -> str:
        url = f"{self._api.endpoint}/datasets/{self._name}"
        if revision.startswith("refs/pr/"):
            return f"{url}/discussions/{revision.removeprefix('refs/pr/')}"
        return url if revision == "main" else f"{url}/tree/{revision}"


def _addition(item: Item) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    operation = CommitOperationAdd(item.path, item.content)
    operation.upload_info.sha256 = bytes.fromhex(
        item.sha256
    )  # so that the file need not be read for it again
    return operation


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == _MOST_AT_ONCE or sum(each.size for each in batch) + item.size > _AT_ONCE):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
