"""What is exported comes back by `magpie import` with the same messages, and trainers' own readers take it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from builds import dataset_rows

import magpie
from magpie.publish.trainers import TRAINERS, template_of

KIND = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TEXTS = ["Why?", ' "quoted",\nand\r\nlong; 語 😀', "42", "[1, 2]", '{"a": 1}', "NULL"]


def talk(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


TALKS = [
    *(talk(text, text[::-1] + ".") for text in TEXTS),
    talk("Why?", "Because.", "And?", "So."),
    talk("Why?", "Because.", system="Be brief."),
    talk("Why?", "Because.", "And?", "So.", system="Be brief."),
]
PAIRS = [
    (talk("Why?"), talk("x", "Because.")[1:], talk("x", "No.")[1:]),
    (talk("Why?", "Because.", "And?", system="Be brief."), talk("x", "So.")[1:], talk("x", "[{no}]")[1:]),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "set.parquet"
    ids = [f"r{at}" for at in range(len(TALKS))]
    pq.write_table(pa.table({"id": ids, "messages": pa.array(TALKS, KIND)}), path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    columns = dict(zip(("prompt", "chosen", "rejected"), zip(*PAIRS, strict=True), strict=True))
    table = {"id": ["a", "b"], **{name: pa.array(list(values), KIND) for name, values in columns.items()}}
    messages = pa.array([[*prompt, *chosen] for prompt, chosen, _ in PAIRS], KIND)
    pq.write_table(pa.table({**table, "messages": messages}), path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "jsonl.zst"])
@pytest.mark.parametrize(
    "format", ["messages", "sharegpt", "alpaca", "magpie", "openai", "llama-factory", "axolotl"]
)
def test_every_form_comes_back_with_the_same_messages(
    source: Path, tmp_path: Path, format: Any, ending: str
) -> None:
    out = tmp_path / f"x.{ending}"
    assert magpie.export(source, format, out).rows == len(TALKS)
    result = magpie.import_dataset(out, tmp_path / "back")
    assert (result.rows, result.left_out) == (len(TALKS), ())
    # In JSON lines the rows that show the types of columns come first.
    key = json.dumps
    assert sorted((row["messages"] for row in dataset_rows(tmp_path / "back")), key=key) == sorted(
        TALKS, key=key
    )


def test_csv_comes_back_with_the_conversations_of_one_turn(source: Path, tmp_path: Path) -> None:
    result = magpie.export(source, "csv", tmp_path / "x.csv")
    magpie.import_dataset(tmp_path / "x.csv", tmp_path / "back")
    assert [row["messages"] for row in dataset_rows(tmp_path / "back")] == TALKS[: len(TEXTS)]
    assert result.rows == len(TEXTS)


@pytest.mark.parametrize("format", ["preference", "trl-preference", "llama-factory", "axolotl"])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_every_form_of_pairs_comes_back_with_the_same_pairs(
    pairs: Path, tmp_path: Path, format: Any, ending: str
) -> None:
    magpie.export(pairs, format, tmp_path / f"x.{ending}")
    magpie.import_dataset(tmp_path / f"x.{ending}", tmp_path / "back")
    back = [
        tuple(row[name] for name in ("prompt", "chosen", "rejected"))
        for row in dataset_rows(tmp_path / "back")
    ]
    assert sorted(back, key=json.dumps) == sorted(PAIRS, key=json.dumps)


def test_llama_factory_is_told_of_each_file_and_others_stay(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    magpie.export(source, "llama-factory", tmp_path / "x.jsonl", split="0.5/0.5")
    magpie.export(pairs, "llama-factory", tmp_path / "pairs.json")
    told = json.loads((tmp_path / "dataset_info.json").read_text())
    assert [*told] == ["mine", "x-train", "x-test", "pairs"]
    # What llamafactory 0.9.5 asks of an entry: data/parser.py and data/converter.py.
    for name in ("x-train", "pairs"):
        entry = told[name]
        assert entry["formatting"] == "sharegpt" and (tmp_path / entry["file_name"]).is_file()
        rows = (tmp_path / entry["file_name"]).read_text()
        row = json.loads(rows)[0] if name == "pairs" else json.loads(rows.splitlines()[0])
        assert {*row} == {*entry["columns"].values()}
        turns, tags = row[entry["columns"]["messages"]], entry["tags"]
        said = [turn[tags["role_tag"]] for turn in turns if turn[tags["role_tag"]] != tags["system_tag"]]
        assert said == [tags["user_tag"], tags["assistant_tag"]] * (len(said) // 2) + (
            ["human"] if name == "pairs" else []
        )
        if name == "pairs":
            assert entry["ranking"] and all(row[side]["from"] == "gpt" for side in ("chosen", "rejected"))


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_axolotl_is_given_the_lines_to_paste(source: Path, pairs: Path, tmp_path: Path, kind: str) -> None:
    magpie.export(source if kind == "sft" else pairs, "axolotl", tmp_path / "x.jsonl")
    told = yaml.safe_load((tmp_path / "x.axolotl.yaml").read_text())
    (entry,) = told["datasets"]
    assert entry["path"] == str(tmp_path / "x.jsonl") and entry["ds_type"] == "json"
    row = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    fields = {value for name, value in entry.items() if name.startswith("field_")}
    assert fields == {*row} and told.get("rl") == (None if kind == "sft" else "dpo")


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_folder_for_a_trainer_holds_all_that_it_takes(
    source: Path, pairs: Path, tmp_path: Path, trainer: Any, kind: str
) -> None:
    out = tmp_path / "out"
    data = source if kind == "sft" else pairs
    folder = magpie.export_for_trainer(data, trainer, out, model="Qwen/Qwen3-8B")
    assert folder.exported.rows == len(TALKS if kind == "sft" else PAIRS)
    settings = yaml.safe_load((out / "train.yaml").read_text())
    rate, batch, epochs = (2e-5, 32, 2) if kind == "sft" else (5e-7, 128, 1)
    per_device = settings.get("per_device_train_batch_size", settings.get("micro_batch_size"))
    assert settings["learning_rate"] == rate and per_device * settings["gradient_accumulation_steps"] == batch
    assert settings.get("num_train_epochs", settings.get("num_epochs")) == epochs
    assert settings.get("model_name_or_path", settings.get("base_model")) == "Qwen/Qwen3-8B"
    if kind == "sft":
        assert settings["warmup_steps"] == 100
        assert 8192 in {settings.get(name) for name in ("max_length", "sequence_len", "cutoff_len")}
    assert folder.command in (out / "train.sh").read_text() and (out / "data" / "train.jsonl").is_file()
    if trainer == "llama-factory":
        assert settings["dataset"] in json.loads((out / "data" / "dataset_info.json").read_text())
        assert settings["template"] == "qwen3_nothink"
    with pytest.raises(magpie.MagpieError, match="replace it with --overwrite"):
        magpie.export_for_trainer(data, trainer, out)
    magpie.export_for_trainer(data, trainer, out, overwrite=True)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(magpie.MagpieError, match="holds other things"):
        magpie.export_for_trainer(data, trainer, out, overwrite=True)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_parts_and_files_are_in_the_configuration(source: Path, tmp_path: Path, trainer: Any) -> None:
    magpie.export_for_trainer(source, trainer, tmp_path / "out", split="0.7/0.3", rows_per_file=3)
    text = (tmp_path / "out" / "train.yaml").read_text()
    settings = yaml.safe_load(text)
    names = [f"data-train-{at:05d}-of-00002" for at in range(2)]
    assert all((tmp_path / "out" / "data" / f"{name}.jsonl").is_file() for name in names)
    if trainer == "llama-factory":
        assert [name.strip() for name in settings["dataset"].split(",")] == names
    else:
        files = [f"data/{name}.jsonl" for name in names]
        held = settings["datasets"]
        assert (held[0]["data_files"] if trainer == "trl" else [one["path"] for one in held]) == files


def test_the_name_of_a_chat_format_is_guessed_from_the_model() -> None:
    assert template_of("meta-llama/Meta-Llama-3-8B") == "llama3"
    assert template_of("org/unknown") == "default"


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_trl_reads_the_configuration_and_its_data(
    source: Path, pairs: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real parser of TRL's command, and its loader of the data that the file names."""
    from trl import DPOConfig, ModelConfig, SFTConfig, TrlParser
    from trl.scripts.utils import DatasetMixtureConfig, ScriptArguments, get_dataset

    data = source if kind == "sft" else pairs
    magpie.export_for_trainer(data, "trl", tmp_path / "out", model="org/model")
    monkeypatch.chdir(tmp_path / "out")
    # The settings of a GPU, which is not here.
    text = Path("train.yaml").read_text().replace("bf16: true", "bf16: false\nuse_cpu: true")
    Path("train.yaml").write_text(text)
    config = SFTConfig if kind == "sft" else DPOConfig
    parser = TrlParser((ScriptArguments, config, ModelConfig, DatasetMixtureConfig))
    _, training, model, mixture = parser.parse_args_and_config(["--config", "train.yaml"])
    assert model.model_name_or_path == "org/model" and training.learning_rate == (
        2e-5 if kind == "sft" else 5e-7
    )
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == (
        32 if kind == "sft" else 128
    )
    rows = get_dataset(mixture)["train"]
    assert rows.column_names == (["messages"] if kind == "sft" else ["prompt", "chosen", "rejected"])
    assert len(rows) == len(TALKS if kind == "sft" else PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_trl_trains_two_steps_on_the_folder(source: Path, pairs: Path, tmp_path: Path, kind: str) -> None:
    """A model of a few thousand random weights: what counts is that the trainer takes the data as it lies there."""
    import datasets
    from tokenizers_made import small
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    magpie.export_for_trainer(source if kind == "sft" else pairs, "trl", tmp_path / "out")
    rows = datasets.load_dataset(
        "json",
        data_files=str(tmp_path / "out" / "data" / "train.jsonl"),
        cache_dir=str(tmp_path / "cache"),
        split="train",
    )
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = AutoTokenizer.from_pretrained(small(tmp_path / "tokenizer", template=template))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    settings = {
        "output_dir": str(tmp_path / "trained"), "max_steps": 2, "per_device_train_batch_size": 1, "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
    }  # fmt: skip
    trainer_class, config_class = (SFTTrainer, SFTConfig) if kind == "sft" else (DPOTrainer, DPOConfig)
    # From a folder, since the reference model of DPO is loaded anew.
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model")
    trainer = trainer_class(
        model=model, args=config_class(**settings), train_dataset=rows, processing_class=tokenizer
    )
    trainer.train()
    assert trainer.state.global_step == 2
