"""Whether two engines write the same: fifty prompts, thirty-two greedy tokens each, compared id by id."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from magpie.chat import ChatFormat
from magpie.engines import open_engine
from magpie.engines.base import Sampling
from magpie.models import ModelFiles
from magpie.recipe import Model

TOKENS = 32
END = -1
"""Stands for every place after a completion's last token, so that ending early is agreed upon or not, too."""

INSTRUCTIONS = (
    "Why is the sky darker at noon on a high mountain?",
    "Write two lines of verse about a kettle.",
    "List four birds that cannot fly.",
    "What is 17 times 23?",
    "Translate 'where is the station' into French.",
    "Name the parts of a bicycle wheel.",
    "How do I remove a candle-wax stain from a tablecloth?",
    "Explain what a hash table is to a ten-year-old.",
    "Give me a packing list for three rainy days in the hills.",
    "Which is heavier, a litre of oil or a litre of water, and why?",
    "Write a Python function that reverses the words of a sentence.",
    "Summarise the water cycle in one sentence.",
    "Suggest a name for a small bakery near a harbour.",
    "What should I ask before renting a flat?",
    "Convert 68 degrees Fahrenheit to Celsius.",
    "Describe the taste of a ripe pear.",
    "Who painted the ceiling of the Sistine Chapel?",
    "Write an SQL query that counts orders per customer.",
    "How long does it take to boil an egg at sea level?",
    "Draft a polite e-mail that declines an invitation.",
    "What is the difference between weather and climate?",
    "Give three reasons to learn to swim as an adult.",
    "¿Cuál es la capital de Portugal?",
    "Erkläre kurz, was ein Kompass ist.",
    "Make a haiku about the first snow.",
    "What does the prefix 'sub' mean?",
    "Plan a vegetarian dinner for six people.",
    "How do bees find their way home?",
    "Fix this sentence: 'Me and him was late.'",
    "Write a regular expression that matches a time such as 09:45.",
    "What are prime numbers used for?",
    "Tell me a short story that begins with a lost key.",
    "How can I sleep better on a night train?",
    "Compare a violin and a viola in two sentences.",
    "What is the boiling point of nitrogen?",
    "Give an example of a simile.",
    "Which planet has the shortest day?",
    "Write a shell command that finds files larger than 10 MB.",
    "How do I thank a colleague who is leaving?",
    "What is inflation?",
    "Sort these from small to large: 0.3, 1/4, 0.27, 2/7.",
    "Explain the offside rule in football.",
    "Invent a riddle whose answer is 'shadow'.",
    "Name five crops that grow in sandy soil.",
    "What happens to iron when it rusts?",
    "Write the opening line of a detective novel.",
    "How is paper made?",
    "What is the plural of 'phenomenon'?",
    "Advise me on choosing a first camera.",
    "Spell the word 'necessary' backwards.",
)


def prompts(chat: ChatFormat) -> list[list[int]]:
    """The instructions as the model is given them, in token ids."""
    return [list(chat.prompt([instruction])) for instruction in INSTRUCTIONS]


def written(
    model: Model, files: ModelFiles, asked: Sequence[Sequence[int]], chat: ChatFormat
) -> list[list[int]]:
    """The ids that an engine writes after each prompt, TOKENS of them; END fills up what ended early.

    An engine gives text, which is encoded again. Where that gives other ids than were drawn (three texts of fifty),
    it does so for every engine alike: the same ids are the same text, and so are the same ids again.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(files.path)
    sampling = Sampling(max_tokens=TOKENS, seed=0, temperature=0.0, stop_ids=chat.stop_ids)

    async def go() -> list[Any]:
        engine = await open_engine(model, files)
        try:
            return await asyncio.gather(*(engine.complete(prompt, sampling) for prompt in asked))
        finally:
            await engine.close()

    completions = asyncio.run(go())
    assert {done.finish_reason for done in completions} <= {"stop", "length"}
    rows = [tokenizer.encode(done.text, add_special_tokens=False) for done in completions]
    return [(row + [END] * TOKENS)[:TOKENS] for row in rows]


def agreement(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """The mean, over prompts, of the share of the first TOKENS places that hold the same id."""
    same = sum(
        a == b for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )
    return same / (TOKENS * len(first))
