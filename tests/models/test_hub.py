"""Models of the hub: one on loopback that refuses in every way a hub does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from magpie.errors import ModelError
from magpie.models import resolve
from magpie.recipe import Model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"not really",
    "pytorch_model.bin": b"never fetched",
    "consolidated.safetensors": b"never fetched either",
    "modeling.py": b"never fetched unless asked for",
}


class Hub(BaseHTTPRequestHandler):
    """Just enough of a hub: one whole model, one of pickles, one that is gated, and nothing else."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        api, _, revision = path.partition("/revision/")
        if revision not in {"", "main", COMMIT} and "acme/tiny" in path:
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif api == "/api/models/acme/tiny":
            self.answer(200, self.info("acme/tiny", list(FILES)))
        elif api == "/api/models/acme/pickled":
            self.answer(200, self.info("acme/pickled", ["config.json", "pytorch_model.bin"]))
        elif path.startswith("/api/models/acme/tiny/tree/"):
            tree = [{"type": "file", "path": n, "size": len(b), "oid": "1" * 40} for n, b in FILES.items()]
            self.answer(200, json.dumps(tree).encode())
        elif path.startswith(f"/acme/tiny/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            self.answer(200, FILES[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"'})
        elif "/acme/gated" in path:
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def info(self, name: str, files: list[str]) -> bytes:
        listed = [{"rfilename": file} for file in files]
        return json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": listed}).encode()

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    Hub.asked = []
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


def close(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["a/b/c", "./not-here", "~/not-here-either", "two words", "-x", "a..b/c"])
def test_a_name_that_is_nothing_says_what_it_may_be(name: str) -> None:
    with pytest.raises(
        ModelError, match=r"a folder on this machine, a .gguf file, a hub id .* or an embedded model \(demo"
    ):
        resolve(Model(model=name))


def test_an_unknown_model_says_what_it_may_be(hub: ThreadingHTTPServer) -> None:
    with pytest.raises(
        ModelError, match=r"'acme/none': the hub does not know it; .* hub id .* embedded model"
    ):
        resolve(Model(model="acme/none"))


def test_a_hub_that_cannot_be_reached_says_what_the_name_may_be(hub: ThreadingHTTPServer) -> None:
    close(hub)
    with pytest.raises(
        ModelError, match=r"cannot be reached .* not all of it is cached .* hub id .* embedded model"
    ):
        resolve(Model(model="acme/tiny"))


def test_offline_mode_asks_no_hub(hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="cannot be reached"):
        resolve(Model(model="acme/tiny"))
    assert Hub.asked == []


def test_a_gated_model_says_how_to_get_in_and_keeps_the_token(
    hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    with pytest.raises(ModelError, match=r"gated; accept its terms .* HF_TOKEN") as caught:
        resolve(Model(model="acme/gated"))
    assert "secretsecret" not in str(caught.value)


def test_a_hub_model_of_pickles_is_refused_before_it_is_fetched(hub: ThreadingHTTPServer) -> None:
    with pytest.raises(ModelError, match="not safetensors"):
        resolve(Model(model="acme/pickled"))
    assert not any("/resolve/" in path for path in Hub.asked)


def test_a_revision_the_hub_does_not_have(hub: ThreadingHTTPServer) -> None:
    with pytest.raises(ModelError, match="no revision 'v9'"):
        resolve(Model(model="acme/tiny", revision="v9"))


def test_a_hub_model_is_fetched_at_a_commit_and_found_again_without_the_hub(hub: ThreadingHTTPServer) -> None:
    tokenizer = resolve(Model(model="acme/tiny"), weights=False)
    assert sorted(path.name for path in tokenizer.path.iterdir()) == ["config.json", "tokenizer.json"]
    files = resolve(Model(model="acme/tiny"))
    assert (files.name, files.revision, tokenizer.revision) == ("acme/tiny", COMMIT, COMMIT)
    assert sorted(path.name for path in files.path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    close(hub)
    assert resolve(Model(model="acme/tiny")) == files
    assert resolve(Model(model="acme/tiny", revision=COMMIT)) == files


def test_a_cached_tokenizer_is_not_taken_for_the_model(hub: ThreadingHTTPServer) -> None:
    files = resolve(Model(model="acme/tiny"), weights=False)
    close(hub)
    assert resolve(Model(model="acme/tiny"), weights=False) == files
    with pytest.raises(ModelError, match=r"not all of it is cached here"):
        resolve(Model(model="acme/tiny"))


def test_code_is_fetched_only_when_the_recipe_trusts_it(hub: ThreadingHTTPServer) -> None:
    files = resolve(Model(model="acme/tiny", trust_remote_code=True), weights=False)
    assert (files.path / "modeling.py").is_file()
