"""The addresses of the hub, and what each answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from hub.repository import Commit, Refused, Repository, changed
from hub.xet import token_headers

if TYPE_CHECKING:
    from hub.server import Account, Hub

_NAME = r"(?P<name>[^/]+/[^/]+)"
_DATASET = rf"/api/datasets/{_NAME}"
_REV = r"/(?P<rev>[^/]+(?:%2F[^/]+)*)"
_KINDS = {
    "whoami": ("GET", r"/api/whoami-v2"),
    "create": ("POST", r"/api/repos/create"),
    "validate": ("POST", r"/api/validate-yaml"),
    "auth": ("GET", rf"{_DATASET}/auth-check/write"),
    "refs": ("GET", rf"{_DATASET}/refs"),
    "discussions": ("GET", rf"{_DATASET}/discussions"),
    "branch": ("POST", rf"{_DATASET}/branch{_REV}"),
    "tree": ("GET", rf"{_DATASET}/tree{_REV}(?:/(?P<path>.+))?"),
    "paths": ("POST", rf"{_DATASET}/paths-info{_REV}"),
    "preupload": ("POST", rf"{_DATASET}/preupload{_REV}"),
    "xet token": ("GET", rf"{_DATASET}/xet-(?:write|read)-token{_REV}"),
    "commit": ("POST", rf"{_DATASET}/commit{_REV}"),
    "info": ("GET", rf"{_DATASET}(?:/revision{_REV})?"),
    "lfs batch": ("POST", rf"/datasets/{_NAME}\.git/info/lfs/objects/batch"),
    "lfs put": ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    "lfs verify": ("POST", r"/lfs-verify"),
    "resolve": ("GET", rf"/datasets/{_NAME}/resolve{_REV}/(?P<path>.+)"),
}


@dataclass
class Answer:
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    hub: Hub
    found: dict[str, str]
    query: dict[str, list[str]]
    body: bytes
    account: Account | None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def revision(self) -> str:
        from urllib.parse import unquote

        return unquote(self.found["rev"])

    def repository(self, *, writes: bool = False) -> Repository:
        repository = self.hub.repositories.get(self.found["name"])
        owner = self.found["name"].partition("/")[0]
        owns = self.account is not None and owner in {self.account.name, *self.account.organizations}
        if repository is None or (repository.private and not owns):
            raise Refused(404 if self.account else 401, "Repository not found", "RepoNotFound")
        if writes and self.account is None:
            raise Refused(401, "Invalid username or password.")
        if writes and repository.gated and not owns:
            raise Refused(403, "Access to this dataset is restricted", "GatedRepo")
        if writes and not (owns and self.account is not None and self.account.may_write):
            raise Refused(403, "You have no write access to this dataset")
        return repository


def kind_of(method: str, path: str) -> str:
    method = "GET" if method == "HEAD" else method
    for kind, (wanted, pattern) in _KINDS.items():
        if wanted == method and re.fullmatch(pattern, path):
            return kind
    return "unknown"


def answer(
    hub: Hub, method: str, path: str, raw_path: str, query: dict[str, list[str]], body: bytes, token: str
) -> Answer:
    """What the hub says. Raises Refused."""
    kind = kind_of(method, raw_path)
    if kind == "unknown":
        raise Refused(404, f"nothing at {path}", "EntryNotFound")
    match = re.fullmatch(_KINDS[kind][1], raw_path)
    assert match is not None
    found = {name: value for name, value in match.groupdict().items() if value is not None}
    if token and token not in hub.accounts:
        raise Refused(401, "Invalid credentials in Authorization header")
    with hub.lock:
        return _ANSWERS[kind](Request(hub, found, query, body, hub.accounts.get(token)))


def _whoami(request: Request) -> Answer:
    account = request.account
    if account is None:
        raise Refused(401, "Invalid username or password.")
    role = "write" if account.may_write else "read"
    return Answer(
        {
            "type": "user",
            "name": account.name,
            "orgs": [{"name": name, "roleInOrg": "admin"} for name in account.organizations],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
        }
    )


def _create(request: Request) -> Answer:
    wanted, account = request.json, request.account
    if account is None:
        raise Refused(401, "Invalid username or password.")
    owner = wanted.get("organization") or account.name
    if not account.may_write or owner not in {account.name, *account.organizations}:
        raise Refused(403, f"You don't have the rights to create a dataset under the namespace {owner!r}")
    name = f"{owner}/{wanted['name']}"
    if name in request.hub.repositories:
        url = f"{request.hub.url}/datasets/{name}"
        return Answer({"error": "You already created this dataset repo", "url": url}, 409)
    request.hub.create(name, private=wanted.get("visibility") == "private")
    return Answer({"url": f"{request.hub.url}/datasets/{name}", "name": name, "id": name})


def _validate(request: Request) -> Answer:
    front = request.json["content"].split("---")[1] if request.json["content"].startswith("---") else ""
    try:
        data = yaml.safe_load(front)
    except yaml.YAMLError as error:
        return Answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
    wrong = [] if data is None or isinstance(data, dict) else [{"message": "the metadata is no mapping"}]
    return Answer({"errors": wrong, "warnings": []}, 400 if wrong else 200)


def _info(request: Request) -> Answer:
    repository = request.repository()
    commit = repository.resolve(request.revision if "rev" in request.found else "main")
    return Answer(
        {
            "id": repository.name, "author": repository.name.partition("/")[0], "sha": commit.oid,
            "private": repository.private, "gated": "auto" if repository.gated else False, "disabled": False,
            "tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": path} for path in commit.tree],
        }
    )  # fmt: skip


def _refs(request: Request) -> Answer:
    refs = [
        {"name": name.removeprefix("refs/"), "ref": name, "targetCommit": oid}
        for name, oid in request.repository().refs.items()
    ]
    branches = [
        ref | {"ref": f"refs/heads/{ref['name']}"} for ref in refs if not ref["ref"].startswith("refs/pr/")
    ]
    requests = [ref for ref in refs if ref["ref"].startswith("refs/pr/")]
    return Answer({"branches": branches, "converts": [], "tags": [], "pullRequests": requests})


def _discussions(request: Request) -> Answer:
    found = request.repository().pull_requests
    author = request.query.get("author", [None])[0]
    found = [each for each in found if author is None or each["author"]["name"] == author]
    return Answer({"count": len(found), "start": 0, "discussions": found})


def _branch(request: Request) -> Answer:
    repository = request.repository(writes=True)
    if request.revision in repository.refs:
        raise Refused(409, "Reference already exists")
    repository.refs[request.revision] = repository.refs["main"]
    return Answer({})


def _tree(request: Request) -> Answer:
    tree = request.repository().resolve(request.revision).tree
    inside = f"{request.found['path'].replace('%2F', '/')}/" if "path" in request.found else ""
    below = {path: blob for path, blob in tree.items() if path.startswith(inside)}
    if not below and inside:
        raise Refused(404, "no such folder", "EntryNotFound")
    recursive = request.query.get("recursive", ["false"])[0].lower() == "true"
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(below.items()):
        parts = path.removeprefix(inside).split("/")
        for depth in range(1, len(parts)):
            folder = inside + "/".join(parts[:depth])
            if recursive or depth == 1:
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
        if recursive or len(parts) == 1:
            entries[path] = blob.in_tree(path) | _xet_entry(request.hub, blob.sha256)
    return Answer(list(entries.values()))


def _xet_entry(hub: Hub, sha256: str | None) -> dict[str, str]:
    name = hub.store.xet_hash(sha256)
    return {} if name is None else {"xetHash": name}


def _paths(request: Request) -> Answer:
    from urllib.parse import parse_qs

    tree = request.repository().resolve(request.revision).tree
    wanted = parse_qs(request.body.decode())["paths"]
    folders = {path for path in wanted if any(name.startswith(f"{path}/") for name in tree)}
    files = [tree[path].in_tree(path) for path in wanted if path in tree]
    return Answer([*files, *({"type": "directory", "path": path, "oid": "0" * 40} for path in folders)])


def _preupload(request: Request) -> Answer:
    tree = request.repository(writes=True).resolve(request.revision).tree
    files = []
    for file in request.json["files"]:
        is_large = file["path"].endswith((".parquet", ".png")) or file["size"] > request.hub.large
        blob = tree.get(file["path"])
        files.append(
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large else "regular",
                "shouldIgnore": False,
                "oid": None if blob is None else blob.sha256 or blob.oid,
            }
        )
    return Answer({"files": files})


def _batch(request: Request) -> Answer:
    request.repository(writes=True)
    hub = request.hub
    objects = []
    for wanted in request.json["objects"]:
        actions = {
            "upload": {"href": f"{hub.url}/lfs/{wanted['oid']}"},
            "verify": {"href": f"{hub.url}/lfs-verify"},
        }
        objects.append(wanted if hub.store.has(wanted["oid"]) else wanted | {"actions": actions})
    return Answer({"transfer": "basic", "objects": objects})


def _put(request: Request) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != request.found["oid"]:
        raise Refused(400, "these are other bytes")
    request.hub.store.add(request.body, request.found["oid"])
    return Answer({})


def _verify(request: Request) -> Answer:
    if not request.hub.store.has(request.json["oid"]):
        raise Refused(404, "it is not there")
    return Answer({})


def _xet_token(request: Request) -> Answer:
    request.repository()
    if not request.hub.xet:
        raise Refused(404, "no Xet here")
    headers = token_headers(request.hub.store.cas)
    body = {
        "casUrl": headers["X-Xet-Cas-Url"],
        "accessToken": headers["X-Xet-Access-Token"],
        "exp": int(headers["X-Xet-Token-Expiration"]),
    }
    return Answer(body, headers=headers)


def _commit(request: Request) -> Answer:
    opens = request.query.get("create_pr") == ["1"]
    repository, account = request.repository(writes=not opens), request.account
    if account is None:
        raise Refused(401, "Invalid username or password.")
    header, *lines = (json.loads(line) for line in request.body.splitlines() if line)
    head = repository.resolve(request.revision)
    if header["value"].get("parentCommit") not in {None, head.oid}:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    tree = changed(head.tree, lines, request.hub.store)
    title, target = header["value"]["summary"], request.revision
    if opens:
        number = len(repository.pull_requests) + 1
        target = f"refs/pr/{number}"
        repository.refs[target] = head.oid
        repository.pull_requests.append(_discussion(repository, number, title, account.name))
    commit: Commit = repository.commit(target, title, tree, account.name)
    url = f"{request.hub.url}/datasets/{repository.name}"
    return Answer(
        {
            "success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}",
            "pullRequestUrl": f"{url}/discussions/{len(repository.pull_requests)}" if opens else None,
        }
    )  # fmt: skip


def _discussion(repository: Repository, number: int, title: str, author: str) -> dict[str, Any]:
    return {
        "num": number, "title": title, "status": "open", "isPullRequest": True, "author": {"name": author},
        "createdAt": "2026-11-27T00:00:00.000Z", "repo": {"name": repository.name, "type": "dataset"},
    }  # fmt: skip


def _resolve(request: Request) -> Answer:
    from urllib.parse import unquote

    commit = request.repository().resolve(request.revision)
    blob = commit.tree.get(unquote(request.found["path"]))
    if blob is None:
        raise Refused(404, "Entry not found", "EntryNotFound")
    headers = {
        "X-Repo-Commit": commit.oid,
        "ETag": f'"{blob.sha256 or blob.oid}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "X-Linked-Size": str(blob.size),
    }
    name = request.hub.store.xet_hash(blob.sha256)
    if name is not None:
        address = f"{request.hub.url}/api/datasets/{request.found['name']}/xet-read-token/{commit.oid}"
        headers |= {"X-Xet-Hash": name, "Link": f'<{address}>; rel="xet-auth"'}
    return Answer(request.hub.store.read(blob), headers=headers)


def _authorized(request: Request) -> Answer:
    request.repository(writes=True)
    return Answer({})


_ANSWERS: dict[str, Callable[[Request], Answer]] = {
    "whoami": _whoami, "create": _create, "validate": _validate, "auth": _authorized,
    "refs": _refs, "discussions": _discussions, "branch": _branch, "tree": _tree, "paths": _paths,
    "preupload": _preupload, "xet token": _xet_token, "commit": _commit, "info": _info, "lfs batch": _batch,
    "lfs put": _put, "lfs verify": _verify, "resolve": _resolve,
}  # fmt: skip
