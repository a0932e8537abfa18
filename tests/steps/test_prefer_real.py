"""TRL trains on the dataset of a run as it lies in its folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from builds import small_recipe
from tokenizers_made import CHATML, small

from magpie.build import build
from magpie.runs.run import DATASET

MODELS = {"generator": "scripted", "judge": "generator", "embedder": "scripted", "reward": "scripted"}


def tiny_model(tokenizer: Any) -> Any:
    """A generator of one layer with random weights, which are the same each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.slow
@pytest.mark.parametrize("respond", [None, {}], ids=["pairs alone", "beside a response"])
def test_dpo_trains_two_steps_on_the_pairs_of_a_run(respond: dict[str, Any] | None, tmp_path: Path) -> None:
    import datasets
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer

    recipe = small_recipe(
        models=MODELS, rows=32, respond=respond, extend=None, prefer={"responses": 3}, filter=None
    )
    run = build(recipe, tmp_path / "run")
    place = str(run.folder / DATASET)
    pairs = datasets.load_dataset(place, "pairs", split="train", cache_dir=str(tmp_path / "cache"))
    assert pairs.num_rows == run.dataset().num_rows >= 8

    folder = small(tmp_path / "model", CHATML, eos="<|im_end|>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tiny_model(tokenizer).save_pretrained(folder)
    network = LlamaForCausalLM.from_pretrained(folder)  # TRL loads its reference from there too
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    settings = DPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2,
        logging_steps=1, max_length=1024, use_cpu=True, bf16=False, gradient_checkpointing=False,
        save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = DPOTrainer(model=network, args=settings, train_dataset=pairs, processing_class=tokenizer)
    first = tokenizer.decode(trainer.train_dataset[0]["chosen_ids"])
    assert first == f"{pairs[0]['chosen'][0]['content']}<|im_end|>\n"
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert trainer.state.global_step == len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3)  # the model and its reference are still the same
    moved = [name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])]
    assert len(moved) == len(before)


@pytest.mark.slow
def test_sft_trains_two_steps_on_what_the_same_folder_gives_without_a_name(tmp_path: Path) -> None:
    import datasets
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    recipe = small_recipe(
        models=MODELS, rows=32, respond=None, extend=None, prefer={"responses": 3}, filter=None
    )
    run = build(recipe, tmp_path / "run")
    rows = datasets.load_dataset(str(run.folder / DATASET), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == run.dataset().num_rows >= 8
    tokenizer = AutoTokenizer.from_pretrained(small(tmp_path / "model", CHATML, eos="<|im_end|>"))
    settings = SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=4, logging_steps=1,
        max_length=1024, use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=tiny_model(tokenizer), args=settings, train_dataset=rows, processing_class=tokenizer
    )
    # The whole conversation, answer included: with the pair beside it, TRL would take the prompt alone.
    text = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    assert all(message["content"] in text for message in rows[0]["messages"])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert trainer.state.global_step == len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
