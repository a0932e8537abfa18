"""Pushes with the Hub's own client to a hub of our own, with faults at every kind of request."""

from __future__ import annotations

import json
import logging
import shutil
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub.pushing import items_in, make_folder, push_folder
from hub.server import TOKEN, Account, Fault, Hub, serving

from magpie.errors import HubError

NAME = "me/small"

# The client sends large files in a way that its own library would rather not see.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is pushed: a few files of each kind; the Hub takes the larger ones into large-file storage."""
    return make_folder(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that takes large files by LFS: in this process, Xet would hold its storage for good."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(Hub(tmp_path / "hub")) as hub:
        yield hub
        huggingface_hub.close_session()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def is_pushed(hub: Hub, folder: Path, revision: str = "main") -> bool:
    there = hub.contents(NAME, revision)
    del there[".gitattributes"]
    return there == contents(folder)


def test_a_push_is_one_commit_and_the_large_files_come_first(hub: Hub, folder: Path) -> None:
    pushed = push_folder(hub.url, NAME, folder)
    assert is_pushed(hub, folder)
    assert (pushed.sent, pushed.deleted, pushed.url) == (5, 0, f"{hub.url}/datasets/{NAME}")
    assert len(hub.repositories[NAME].history()) == 2  # the Hub's own first one, and ours
    assert hub.seen.index("lfs put") < hub.seen.index("commit")
    assert pushed.commit == hub.repositories[NAME].refs["main"]


def test_a_second_push_sends_nothing(hub: Hub, folder: Path) -> None:
    first = push_folder(hub.url, NAME, folder)
    hub.seen.clear()
    again = push_folder(hub.url, NAME, folder)
    assert (again.commit, again.sent) == (first.commit, 0)
    assert not {"preupload", "lfs put", "commit"} & set(hub.seen)


def test_only_what_changed_is_sent_and_what_is_gone_is_deleted(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    push_folder(hub.url, NAME, folder)
    changed = shutil.copytree(folder, tmp_path / "changed")
    (changed / "train-00001.parquet").rename(changed / "train-00001-0123abcd.parquet")
    hub.seen.clear()
    pushed = push_folder(hub.url, NAME, changed)
    assert (pushed.sent, pushed.deleted) == (1, 1)
    assert "lfs put" not in hub.seen  # the bytes are there under another name
    assert is_pushed(hub, changed)
    assert len(hub.repositories[NAME].history()) == 3


FAULTS = {
    "whoami is down": [Fault("whoami", status=503)],
    "info is down": [Fault("info", at=(0, 1), status=500)],
    "create is down": [Fault("create", status=502)],
    "the reply to create is lost": [Fault("create", cut="after")],
    "too many requests for the tree": [Fault("tree", status=429, headers={"Retry-After": "0"})],
    "the rate limit is reached": [Fault("info", status=429, headers={"RateLimit": '"api";r=0;t=0'})],
    "preupload is down": [Fault("preupload", status=500)],
    "preupload is cut": [Fault("preupload", cut="before")],
    "the batch is down": [Fault("lfs batch", status=503)],
    "a large file is refused once": [Fault("lfs put", at=(1,), status=500)],
    "a large file is cut": [Fault("lfs put", cut="before")],
    "the reply to a large file is lost": [Fault("lfs put", at=(2,), cut="after")],
    "verify is down": [Fault("lfs verify", status=504)],
    "validate is down": [Fault("validate", status=500)],
    "the commit is refused once": [Fault("commit", status=500)],
    "the commit is cut": [Fault("commit", cut="before")],
    "the reply to the commit is lost": [Fault("commit", cut="after")],
    "the reply to the commit is lost, and the head is down": [
        Fault("commit", cut="after"),
        Fault("info", at=(2,), status=500),
    ],
    "too many commits": [Fault("commit", status=429, headers={"Retry-After": "0"})],
    "another commit came first": [Fault("commit", status=412)],
    "the tree is down after the commit": [Fault("tree", at=(1,), status=500)],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_a_push_gets_over_a_fault(hub: Hub, folder: Path, faults: list[Fault]) -> None:
    hub.faults = faults
    push_folder(hub.url, NAME, folder)
    assert is_pushed(hub, folder)
    assert len(hub.repositories[NAME].history()) == 2


def test_a_commit_of_somebody_else_in_between_is_kept(hub: Hub, folder: Path) -> None:
    repository = hub.create(NAME)
    theirs = hub.store.add_small(b"cite us")

    def interfere(number: int, when: str) -> None:
        if hub.seen[-1] == "preupload" and "CITATION.cff" not in repository.resolve("main").tree:
            tree = repository.resolve("main").tree | {"CITATION.cff": theirs}
            repository.commit("main", "theirs", tree, "another")

    hub.at_request = interfere
    push_folder(hub.url, NAME, folder)
    assert hub.contents(NAME).pop("CITATION.cff") == b"cite us"
    assert [commit.title for commit in repository.history()][:2] == ["Upload small with magpie", "theirs"]


LINES = {
    "the token is refused": ([Fault("whoami", status=401)], "does not take the token"),
    "the hub is down for good": ([Fault("whoami", at=tuple(range(9)), status=503)], "the Hub answers 503"),
    "a repository that is gated": (
        [Fault("info", status=403, headers={"X-Error-Code": "GatedRepo"})],
        "gated",
    ),
    "a commit that is refused": ([Fault("commit", status=403)], "the Hub refuses it"),
    "bytes that are not taken": ([Fault("lfs put", status=400)], "the Hub answers 400"),
}


@pytest.mark.parametrize(("faults", "line"), LINES.values(), ids=LINES)
def test_what_does_not_pass_is_one_line(hub: Hub, folder: Path, faults: list[Fault], line: str) -> None:
    hub.faults = faults
    with pytest.raises(HubError, match=line) as raised:
        push_folder(hub.url, NAME, folder)
    assert "\n" not in str(raised.value)


def test_before_anything_is_sent(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, no right, a name that is taken, another's repository: one line, and no byte of the dataset."""
    hub.accounts["hf_reader"] = Account("reader", may_write=False)
    hub.accounts["hf_other"] = Account("other")
    hub.create("me/theirs").refs["main"]
    taken = hub.create("me/taken")
    tree = taken.resolve("main").tree | {"data.csv": hub.store.add_small(b"a,b")}
    taken.commit("main", "data", tree, "me")
    hub.create("lab/hidden", private=True)
    for token, name, line in (
        (TOKEN, "else/small", r"cannot make else/small.*\(lab\); give me/small"),
        (TOKEN, "me/taken", "holds other things \\(data.csv\\)"),
        ("hf_other", "me/theirs", "other may not write to me/theirs"),
        ("hf_other", "lab/hidden", "cannot make lab/hidden"),
        ("hf_reader", "reader/small", "may only read"),
        ("hf_nobody", "me/small", "does not take the token"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(HubError, match=line):
            push_folder(hub.url, name, folder)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "no-token"))
    with pytest.raises(HubError, match="no token for the Hub; set HF_TOKEN"):
        push_folder(hub.url, NAME, folder)
    assert not {"preupload", "lfs batch", "lfs put", "commit"} & set(hub.seen)


@pytest.mark.parametrize(
    "name", ["small", "a/b/c", "me/", "me/sm all", "me/a--b", "me/.hidden", "me/x.git", "mé/x"]
)
def test_names_that_the_hub_refuses(name: str) -> None:
    from magpie.publish.hub.checks import check_name

    with pytest.raises(HubError, match="give OWNER/NAME"):
        check_name(name)


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, folder: Path) -> None:
    push_folder(hub.url, NAME, folder, private=True)
    assert hub.repositories[NAME].private
    push_folder(hub.url, NAME, folder, private=True)
    hub.repositories[NAME].private = False
    with pytest.raises(HubError, match="is there already, and public"):
        push_folder(hub.url, NAME, folder, private=True)


def test_rows_of_another_recipe_are_not_replaced_unasked(hub: Hub, folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    (other / ".manifest.json").write_text(json.dumps({"about": {"recipe": {"name": "large"}}}))
    push_folder(hub.url, NAME, other)
    with pytest.raises(HubError, match=r"another recipe \(large\)"):
        push_folder(hub.url, NAME, folder)
    push_folder(hub.url, NAME, folder, replace=True)
    assert is_pushed(hub, folder)


def test_a_card_that_is_not_ours_is_not_replaced_unasked(hub: Hub, folder: Path) -> None:
    repository = hub.create(NAME)
    tree = repository.resolve("main").tree | {"README.md": hub.store.add_small(b"# my notes\n")}
    repository.commit("main", "notes", tree, "me")
    with pytest.raises(HubError, match="a card that is not magpie's"):
        push_folder(hub.url, NAME, folder)
    push_folder(hub.url, NAME, folder, replace=True)
    assert is_pushed(hub, folder)


def test_a_branch_is_made_and_main_is_left(hub: Hub, folder: Path) -> None:
    hub.create(NAME)
    hub.faults = [Fault("branch", cut="after")]
    pushed = push_folder(hub.url, NAME, folder, revision="v2")
    assert is_pushed(hub, folder, "v2")
    assert pushed.url.endswith("/tree/v2")
    assert list(hub.contents(NAME)) == [".gitattributes"]


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [Fault("commit", cut="after")],
        [Fault("commit", status=500)],
        [Fault("discussions", at=(0, 1), status=500)],
    ],
    ids=["undisturbed", "the reply is lost", "down", "discussions are down"],
)
def test_there_is_one_pull_request_whatever_happens(hub: Hub, folder: Path, faults: list[Fault]) -> None:
    """Somebody else's repository: who may read may propose."""
    hub.accounts["hf_owner"] = Account("owner")
    hub.create("lab/theirs")
    hub.faults = faults
    pushed = push_folder(hub.url, "lab/theirs", folder, create_pr=True)
    again = push_folder(hub.url, "lab/theirs", folder, create_pr=True)
    repository = hub.repositories["lab/theirs"]
    assert (pushed.url, pushed.commit) == (again.url, again.commit)
    assert pushed.url == f"{hub.url}/datasets/lab/theirs/discussions/1"
    assert len(repository.pull_requests) == 1
    assert len(repository.history("refs/pr/1")) == 2
    assert len(repository.history("main")) == 1


def test_a_changed_dataset_goes_into_the_same_pull_request(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.create(NAME)
    push_folder(hub.url, NAME, folder, create_pr=True)
    changed = shutil.copytree(folder, tmp_path / "changed")
    (changed / "train-00001.parquet").write_bytes(b"fewer rows")
    push_folder(hub.url, NAME, changed, create_pr=True)
    assert is_pushed(hub, changed, "refs/pr/1")
    assert len(hub.repositories[NAME].pull_requests) == 1


def test_other_bytes_on_the_hub_are_noticed(hub: Hub, folder: Path) -> None:
    """A hub that takes a commit and keeps something else."""
    hub.create(NAME)

    def spoil(number: int, when: str) -> None:
        if hub.seen[-1] == "commit" and when == "after":
            repository = hub.repositories[NAME]
            head = repository.resolve("main")
            head.tree["train-00000.parquet"] = hub.store.add_small(b"other bytes")

    hub.at_request = spoil
    with pytest.raises(HubError, match=r"other bytes than were sent \(train-00000.parquet\)"):
        push_folder(hub.url, NAME, folder)


def test_the_token_is_shown_nowhere(
    hub: Hub,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever goes wrong: not in a message, a traceback, the log or the output."""
    # The hub's client waits longer and longer between its own tries, half a minute in sum.
    pause = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: pause(min(seconds, 0.01)))
    caplog.set_level(logging.DEBUG)
    shown = []
    for faults in (
        [Fault("whoami", status=401, headers={"X-Error-Message": f"no {TOKEN}"})],
        [Fault("lfs put", at=tuple(range(60)), status=400)],
        [Fault("commit", status=403, headers={"X-Error-Message": f"bad token {TOKEN}"})],
        [Fault("tree", at=tuple(range(60)), cut="before")],
    ):
        hub.faults, hub.seen = faults, []
        with pytest.raises(HubError) as raised:
            push_folder(hub.url, NAME, folder, tries=2)
        shown += [str(raised.value), *traceback.format_exception(raised.value)]
    hub.faults = []
    push_folder(hub.url, NAME, folder)
    shown += [*hub.contents(NAME).values(), *capfd.readouterr()]
    shown += [record.getMessage() for record in caplog.records if record.name.startswith("magpie")]
    assert TOKEN not in str(shown)


def test_checksums_are_those_of_git_and_of_sha256(folder: Path) -> None:
    import hashlib

    for item in items_in(folder):
        data = (folder / item.path).read_bytes()
        assert item.sha256 == hashlib.sha256(data).hexdigest()
        assert item.git == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
