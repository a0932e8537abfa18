"""A reward model for tests: the shape of a real one, random weights, and a tokenizer of single characters."""

from pathlib import Path

from tokenizers_made import CHATML, small


def reward_model(
    folder: Path, *, layers: int = 2, hidden: int = 128, pad: int | None = 4, labels: int = 1
) -> str:
    """The folder of a Llama with a score head, whose rewards differ from conversation to conversation."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    made = small(folder, CHATML)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=hidden, intermediate_size=hidden * 5 // 2, num_hidden_layers=layers,
        num_attention_heads=hidden // 32, num_key_value_heads=hidden // 64, max_position_embeddings=1024,
        num_labels=labels, pad_token_id=pad, initializer_range=0.1,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(made)
    return made
