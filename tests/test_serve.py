"""`magpie serve`: the command that becomes the server, and what it refuses before anything is loaded."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from magpie.cli.serve import serve
from magpie.engines.vllm import serve as server
from magpie.errors import EngineError
from magpie.models import ModelFiles


def test_a_port_that_is_taken_is_named() -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=rf"127\.0\.0\.1, port {port} .*--port"):
            server.check_place("127.0.0.1", port)


def test_without_vllm_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="vLLM is not installed"):
        serve("demo", port=1)


def test_the_server_gets_the_engines_own_settings_and_the_recipes_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    became: list[list[str]] = []
    arguments = {
        "model": str(tmp_path),
        "enable_chunked_prefill": False,
        "enforce_eager": True,
        "cudagraph_capture_sizes": [1, 2],
        "structured_outputs_config": {"backend": "xgrammar"},
    }
    monkeypatch.setattr(server, "check_place", lambda host, port: None)
    monkeypatch.setattr(server, "engine_arguments", lambda model, files, on_cpu: dict(arguments))
    platform = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: True))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(platforms=platform))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platform)
    monkeypatch.setattr("magpie.models.resolve", lambda model: ModelFiles("some/model", tmp_path, "r"))
    monkeypatch.setattr(server, "become", lambda command, **settings: became.append(command))
    serve("some/model", port=8123)
    (command,) = became
    words = " ".join(command)
    assert command[:2] == [sys.executable, "-P"]  # nothing in the current folder runs
    for option in (
        f"--model {tmp_path}", "--no-enable-chunked-prefill", "--enforce-eager", "--cudagraph-capture-sizes 1 2",
        '--structured-outputs-config {"backend": "xgrammar"}', "--served-model-name some/model",
        "--host 127.0.0.1", "--port 8123",
    ):  # fmt: skip
        assert option in words
    shown = capsys.readouterr().out
    assert "server: {url: 'http://127.0.0.1:8123/v1', model: some/model}" in shown


def test_the_key_goes_to_the_server_through_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda *call: ran.append(call))
    monkeypatch.setenv("MAGPIE_API_KEY", "sk-a-key-of-mine\n")
    server.become(["python", "-m", "x"], key_variable="MAGPIE_API_KEY", log_level="INFO")
    [(program, words, environment)] = ran
    assert (program, words) == ("python", ["python", "-m", "x"])
    assert environment["VLLM_API_KEY"] == "sk-a-key-of-mine"
