"""What an embedder cannot read of a text, or does not come to, is never a repeat by distance alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from recording import SCRIPTED
from recording import run as run_step

from magpie.engines.embedder import encode_all, unread_parts
from magpie.recipe import Decontaminate, Dedup, Model
from magpie.steps.base import NOTE, Instructions
from magpie.steps.decontaminate import Decontaminator
from magpie.steps.dedup import DedupStep

WORDS = ["[PAD]", "[UNK]", "decode", "this", "text", ":", "how", "do", "bees", "fly", "?", "write", "birds"]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small embedder that knows few words, and reads eight tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("embedder")
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=8
    ).save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(WORDS), **size)).save_pretrained(folder)
    return Model(model=str(folder), dtype="float32")


def test_what_is_read_whole_has_no_blind_spot(embedder: Model) -> None:
    assert (
        unread_parts(embedder, ["How do bees fly?", "how do bees fly? 😊", "", "decode this text: bees"])
        == [""] * 4
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ฉันจะปลูกดอกไม้ได้อย่างไร", "ช่วยเขียนบทกวีเกี่ยวกับแม่น้ำ"),
        ("Decode this text: QUJDQUJD", "Decode this text: WFlaWFla"),
        ("how do bees fly " * 2 + "birds", "how do bees fly " * 2 + "text"),
    ],
)
def test_texts_that_differ_in_what_is_not_read_differ(embedder: Model, one: str, other: str) -> None:
    first, second, again = unread_parts(embedder, [one, other, one.upper()])
    assert first and second and first != second
    assert first == again
    vectors = encode_all(embedder, [one, other])
    assert np.square(vectors[0] - vectors[1]).sum() < 0.05  # to the embedder they are the same


def test_an_engine_that_loads_no_files_reads_everything() -> None:
    assert unread_parts(SCRIPTED, ["ฉัน", "how"]) == ["", ""]


def rows_of(embedder: Model, texts: list[str]) -> pa.Table:
    vectors = encode_all(embedder, texts).astype(np.float16)
    return pa.table(
        {
            "id": [f"r{at}" for at in range(len(texts))],
            "index": pa.array(range(len(texts)), pa.int64()),
            "rejected": pa.nulls(len(texts), pa.string()),
            "instruction": texts,
            "embedding": pa.array(list(vectors), pa.list_(pa.float16())),
        }
    )


def test_no_row_is_a_repeat_for_what_the_embedder_cannot_read(embedder: Model) -> None:
    texts = [
        "How do bees fly?",  # 0
        "ฉันจะปลูกดอกไม้",
        "ช่วยเขียนบทกวี",
        "how do bees fly?",  # repeats 0
        "ฉันจะปลูกดอกไม้",  # repeats 1
        "Decode this text: QUJD",
        "Decode this text: WFla",
        "decode this text: qujd",  # repeats 5
        "how do bees fly " * 2 + "birds",
        "how do bees fly " * 2 + "text",
    ]
    result = run_step(DedupStep(Dedup(), embedder=embedder), rows_of(embedder, texts))
    repeats = {3: "r0", 4: "r1", 7: "r5"}
    assert result["duplicate_of"].to_pylist() == [repeats.get(at) for at in range(len(texts))]
    assert result["min_similar_id"].to_pylist()[1:3] == ["r4", None]
    assert result["repeat_count"].to_pylist() == [1, 1, 0, 1, 1, 1, 0, 1, 0, 0]
    assert result["min_neighbor_distance"].to_pylist()[2] is None
    (said,) = json.loads(result.schema.metadata[NOTE]).values()
    assert said.startswith("8 rows with words the embedder does not know")
    assert "BAAI/bge-m3" in said


def test_another_dataset_is_compared_likewise(embedder: Model, tmp_path: Path) -> None:
    texts = ["ฉันจะปลูกดอกไม้", "ช่วยเขียนบทกวี", "How do bees fly?"]
    places = tuple(f"b:{at}" for at in range(3))
    known = ("ช่วยเขียนบทกวี", "ดอกไม้", "how do bees fly?")
    dataset = Instructions("b", places, places, known, "")
    part = Decontaminate(files=(str(tmp_path),), distance=0.05, ngram=50)
    result = Decontaminator(part, (dataset,), embedder).run_all(rows_of(embedder, texts), lambda *_: None)
    assert [None if where is None else where[:3] for where in result["contaminated_by"].to_pylist()] == [
        None, "b:0", "b:2",
    ]  # fmt: skip


def test_one_text_written_in_two_ways_has_one_vector(embedder: Model) -> None:
    one, other = encode_all(embedder, ["How do bees fly?", "Ｈｏｗ ｄｏ ｂｅｅｓ ｆｌｙ？"])
    assert np.array_equal(one, other)
