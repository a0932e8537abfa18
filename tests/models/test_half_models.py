"""Folders that hold half a model, code, or a pickle: one clear line before anything is loaded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from magpie.engines.embedder import load_encoder
from magpie.errors import ModelError
from magpie.models import resolve
from magpie.models.gguf import only_gguf
from magpie.recipe import Model


def folder_of(path: Path, **files: Any) -> Path:
    """A folder with these files: objects as JSON, bytes and text as they are."""
    for name, content in files.items():
        place = path / name.replace("__", "/").replace("_json", ".json").replace("_st", ".safetensors")
        place.parent.mkdir(parents=True, exist_ok=True)
        is_text = isinstance(content, bytes)
        place.write_bytes(content if is_text else json.dumps(content).encode())
    return path


def refused(model: Path | str, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(Model(model=str(model), **settings))
    message = str(caught.value)
    assert message.isprintable()
    assert "; " in message or ". A model is" in message
    return message


CONFIG = {"model_type": "llama"}


def test_an_adapter_alone_says_how_to_merge_it(tmp_path: Path) -> None:
    adapter = folder_of(
        tmp_path / "lora",
        adapter_config_json={"base_model_name_or_path": "org/base\x1b[2J"},
        adapter_model_st=b"12345678",
        tokenizer_json={},
    )
    message = refused(adapter)
    assert r"holds only an adapter (LoRA) of org/base\x1b[2J" in message
    assert "merge_and_unload" in message
    assert resolve(Model(model=str(adapter)), weights=False).path == adapter
    folder_of(adapter, model_st=b"12345678", config_json=CONFIG)
    assert resolve(Model(model=str(adapter))).path == adapter  # a model with an adapter beside it is a model


def test_an_adapter_without_a_tokenizer_is_called_one_too(tmp_path: Path) -> None:
    adapter = folder_of(
        tmp_path / "lora",
        adapter_config_json={"base_model_name_or_path": "org/base"},
        adapter_model_st=b"12345678",
    )
    assert "holds only an adapter (LoRA) of org/base" in refused(adapter)
    with pytest.raises(ModelError, match="holds only an adapter"):
        resolve(Model(model=str(adapter)), weights=False)


@pytest.mark.parametrize("name", ["/models/x", "./x", "../x", "~/x", "a/b/c", "models/x/", "x.gguf"])
def test_a_path_that_is_not_there_is_called_a_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"no model {name!r}: there is no such folder or file" in refused(name)


def test_half_models_are_named(tmp_path: Path) -> None:
    assert "holds a tokenizer and no weights" in refused(folder_of(tmp_path / "a", tokenizer_json={}))
    bins = folder_of(tmp_path / "b", config_json=CONFIG)
    (bins / "pytorch_model.bin").write_bytes(b"1")
    assert "not safetensors (pytorch_model.bin)" in refused(bins)
    parts = folder_of(tmp_path / "c", config_json=CONFIG)
    (parts / "model-00001-of-00003.safetensors").write_bytes(b"12345678")
    assert "lacks 2 of its 3 weight files, model-00002-of-00003.safetensors" in refused(parts)
    pointer = folder_of(
        tmp_path / "d", config_json=CONFIG, model_st=b"version https://git-lfs.github.com/spec/v1\n"
    )
    assert "only points to the weights; run `git lfs pull`" in refused(pointer)


def gguf(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"GGUF" + bytes(100))
    return path


def test_ggufs_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    gguf(tmp_path / "two" / "a.Q4.gguf")
    gguf(tmp_path / "two" / "b.Q8.gguf")
    assert "holds several models (a.Q4.gguf, b.Q8.gguf); give the path of one of them" in refused(
        tmp_path / "two"
    )
    part = gguf(tmp_path / "parts" / "m-00001-of-00002.gguf")
    gguf(tmp_path / "parts" / "m-00002-of-00002.gguf")
    for model in (part, part.parent):
        assert "is part 1 of 2 of a model; join them first: llama-gguf-split --merge" in refused(model)
    (tmp_path / "fake.gguf").write_bytes(b"<html>")
    assert "is no GGUF file, whatever its name says" in refused(tmp_path / "fake.gguf")
    gguf(tmp_path / "see" / "m.gguf")
    gguf(tmp_path / "see" / "mmproj-m.gguf")
    assert only_gguf(tmp_path / "see") == tmp_path / "see" / "m.gguf"


def test_a_dry_run_says_it_and_converts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from magpie.plan import BuildTools
    from magpie.plan.missing import _problems
    from magpie.steps.base import ModelUse

    monkeypatch.setenv("MAGPIE_CACHE", str(tmp_path / "cache"))

    def said(model: Path) -> list[str]:
        use = ModelUse("generator", Model(model=str(model), engine="transformers"), "write", None)
        return list(_problems(use, BuildTools()))

    assert said(gguf(tmp_path / "good" / "m.gguf")) == said(tmp_path / "good") == []
    gguf(tmp_path / "good" / "n.gguf")
    assert "holds several models" in said(tmp_path / "good")[0]
    assert "is part 1 of 2" in said(gguf(tmp_path / "parts" / "m-00001-of-00002.gguf"))[0]
    lora = folder_of(
        tmp_path / "lora", adapter_config_json={}, adapter_model_st=b"12345678", tokenizer_json={}
    )
    assert "holds only an adapter" in said(lora)[0]
    assert not (tmp_path / "cache").exists()


def test_a_damaged_gguf_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGPIE_CACHE", str(tmp_path / "cache"))
    message = refused(gguf(tmp_path / "cut.gguf"))
    assert "cut-gguf-" in message and "cannot be made" in message
    assert not [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]


def modules(*kinds: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (kind, path) in enumerate(kinds)]


TRANSFORMER = ("sentence_transformers.models.Transformer", "")


def test_an_embedders_own_module_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    where = folder_of(
        tmp_path,
        config_json={"model_type": "bert"},
        model_st=b"12345678",
        modules_json=modules(("evil.Module", "")),
    )
    assert "names a module of its own, evil.Module, whose code would be run" in refused(where)
    assert resolve(Model(model=str(where), trust_remote_code=True)).path == where
    folder_of(where, modules_json=modules(TRANSFORMER, ("sentence_transformers.models.Dense", "../1_Dense")))
    assert "names a module outside its folder, ../1_Dense" in refused(where)
    folder_of(where, modules_json={"a": 1})
    assert "is no list of modules; fetch the model again" in refused(where)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("1/0",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_a_modules_pickle_is_not_read(tmp_path: Path, name: str) -> None:
    dense = ("sentence_transformers.models.Dense", "1_Dense")
    where = folder_of(
        tmp_path,
        config_json={"model_type": "bert"},
        model_st=b"12345678",
        modules_json=modules(TRANSFORMER, dense),
    )
    (where / "1_Dense").mkdir()
    (where / "1_Dense" / name).write_bytes(pickle.dumps(Evil()))
    assert f"keeps weights in a pickle, 1_Dense/{name}" in refused(where)
    (where / "1_Dense" / "model.safetensors").write_bytes(b"12345678")
    (where / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert resolve(Model(model=str(where))).path == where  # beside safetensors it is not read


def test_code_of_its_own_is_not_run(tmp_path: Path) -> None:
    own = {"model_type": "something-new", "auto_map": {"AutoModel": "modeling_evil.Evil"}}
    where = folder_of(tmp_path, config_json=own, model_st=b"12345678")
    assert "needs Python code that comes with it (modeling_evil.Evil)" in refused(where)
    assert resolve(Model(model=str(where), trust_remote_code=True)).path == where
    folder_of(where, config_json=own | {"model_type": "llama"})
    assert resolve(Model(model=str(where))).path == where  # transformers has code of its own for these


def test_an_embedder_without_its_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        tmp_path
    )
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=4, **size)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")

    def keep(*without: str) -> Model:
        left = {name: one for name, one in tensors.items() if not any(part in name for part in without)}
        save_file(left, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return Model(model=str(tmp_path), dtype="float32")

    assert load_encoder(keep("pooler")) is not None
    with pytest.raises(ModelError, match=r"lacks 4 of its tensors, encoder\.layer\.0.*they would be random"):
        load_encoder(keep("query", "key"))


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    import asyncio

    from magpie.engines import open_engine
    from magpie.models import ModelFiles

    where = folder_of(
        tmp_path, config_json={"model_type": "bert", "vocab_size": 4}, model_st=b"not weights, cut"
    )
    with pytest.raises(ModelError, match="cannot be loaded as an embedder"):
        load_encoder(Model(model=str(where)))
    with pytest.raises(ModelError, match="transformers cannot load 'm'; check the folder"):
        asyncio.run(open_engine(Model(model=str(where), engine="transformers"), ModelFiles("m", where, "r")))


@pytest.mark.parametrize("kind", ["generator", "reward"])
def test_a_model_without_its_tensors_is_refused(tmp_path: Path, kind: str) -> None:
    import asyncio

    from safetensors.torch import load_file, save_file
    from tokenizers_made import CHATML, small
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    from magpie.engines import open_engine
    from magpie.engines.transformers.scoring import TransformersScorer
    from magpie.models import ModelFiles

    small(tmp_path, CHATML)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = LlamaConfig(vocab_size=1024, num_labels=1, pad_token_id=0, **size)
    network = LlamaForCausalLM if kind == "generator" else LlamaForSequenceClassification
    network(config).save_pretrained(tmp_path)
    lost = "model.norm.weight" if kind == "generator" else "score.weight"
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.pop(lost) is not None
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, files = Model(model=str(tmp_path), engine="transformers"), ModelFiles("m", tmp_path, "r")
    opening = open_engine(model, files) if kind == "generator" else TransformersScorer.open(model, files)
    with pytest.raises(ModelError, match=rf"lacks 1 of its tensors, {lost} among them: they would be random"):
        asyncio.run(opening)
