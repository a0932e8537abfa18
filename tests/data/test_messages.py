"""Conversations as messages, with and without what the model reasoned."""

import pyarrow as pa

from magpie.data.messages import messages_of


def test_reasoning_is_in_the_messages_only_when_asked_for() -> None:
    rows = pa.table(
        {
            "instruction": ["Why?", "How?"],
            "reasoning": pa.array(["First this.", None], pa.string()),
            "response": ["Because.", "So."],
            "later_turns": [
                [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Also."}],
                [],
            ],
            "later_reasoning": pa.array([["Then that."], []], pa.list_(pa.string())),
        }
    )
    plain = messages_of(rows, with_reasoning=False).to_pylist()
    assert [message["content"] for message in plain[0]] == ["Why?", "Because.", "And?", "Also."]
    first, second = messages_of(rows, with_reasoning=True).to_pylist()
    assert [message["content"] for message in first] == [
        "Why?",
        "<think>\nFirst this.\n</think>\n\nBecause.",
        "And?",
        "<think>\nThen that.\n</think>\n\nAlso.",
    ]
    assert [message["content"] for message in second] == ["How?", "So."]
