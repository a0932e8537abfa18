"""The columns of the published Magpie datasets, and which of ours each is made from.

Names and types are those of the sets on the hub, from Magpie-Pro on; `gen_input_configs` holds more there and here than
the method needs: how the instruction was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

CONVERSATIONS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
"""A conversation in ShareGPT's form: `from` is "human", "gpt" or "system"."""

GEN_INPUT_CONFIGS = pa.struct(
    [
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("top_k", pa.int64()),
        ("min_p", pa.float64()),
        ("input_generator", pa.string()),
        ("seed", pa.int64()),
        ("engine", pa.string()),
        ("system_prompt", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class PublishedColumn:
    """A column of the published sets; `made_from` names the column of ours that it is, or says how it is made."""

    name: str
    kind: pa.DataType
    made_from: str
    is_column: bool = True


_TEXT, _WHOLE, _FLOAT = pa.string(), pa.int64(), pa.float64()

PUBLISHED = (
    PublishedColumn("uuid", _TEXT, "id"),
    PublishedColumn("model", _TEXT, "generator"),
    PublishedColumn(
        "gen_input_configs",
        GEN_INPUT_CONFIGS,
        "temperature, top_p, top_k, min_p, generator, instruct_seed, generator_engine, instruct_system_prompt",
        is_column=False,
    ),
    PublishedColumn("instruction", _TEXT, "instruction"),
    PublishedColumn("response", _TEXT, "response"),
    PublishedColumn("conversations", CONVERSATIONS, "messages", is_column=False),
    PublishedColumn("task_category", _TEXT, "task_category"),
    PublishedColumn("other_task_category", pa.list_(_TEXT), "other_task_categories"),
    PublishedColumn("task_category_generator", _TEXT, "judge"),
    PublishedColumn("difficulty", _TEXT, "difficulty"),
    PublishedColumn("intent", _TEXT, "intent"),
    PublishedColumn("knowledge", _TEXT, "knowledge"),
    PublishedColumn("difficulty_generator", _TEXT, "judge"),
    PublishedColumn("input_quality", _TEXT, "input_quality"),
    PublishedColumn("quality_explanation", _TEXT, "quality_explanation"),
    PublishedColumn("quality_generator", _TEXT, "judge"),
    PublishedColumn("llama_guard_2", _TEXT, "llama_guard"),
    PublishedColumn("reward_model", _TEXT, "reward_model"),
    PublishedColumn("instruct_reward", _FLOAT, "instruct_reward"),
    PublishedColumn("min_neighbor_distance", _FLOAT, "min_neighbor_distance"),
    PublishedColumn("repeat_count", _WHOLE, "repeat_count"),
    PublishedColumn("min_similar_uuid", _TEXT, "min_similar_id"),
    PublishedColumn("instruction_length", _WHOLE, "the characters of instruction", is_column=False),
    PublishedColumn("response_length", _WHOLE, "response_length"),
    PublishedColumn("language", _TEXT, "language"),
)
