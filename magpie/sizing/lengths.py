"""How long rows usually are, in tokens: for planning, before there are any.

A finished run knows its own lengths, and `magpie plan --like RUN` takes those.
"""

from __future__ import annotations

import math

TEMPLATE = 10
"""The texts of a chat template around one message."""
INSTRUCTION = 35
"""An instruction that ends at its first newline. With the template it makes the 45 tokens of Magpie-Air's prompts."""
LONG_INSTRUCTION = 100
"""An instruction that may have several lines: an assumption."""
RESPONSE = 430
"""Mean length of a response in Magpie-Air (arXiv 2406.08464), all rows answered by Llama-3-8B-Instruct."""
DEVIATION = 217
"""Their standard deviation there."""
TAG = 80
"""A judge's answer to one question: an assumption."""
VERDICT = 3
"""A guard's verdict: an assumption, as most are one word."""
GUARD_TEMPLATE = 400
"""The instructions of a guard around a conversation, the same for every row: an assumption."""
CHARACTERS = 4
"""Characters of English in a token."""


def written(max_tokens: int) -> float:
    """The mean length of a response that is cut at `max_tokens`; lengths are taken to be lognormal."""
    sigma2 = math.log(1 + (DEVIATION / RESPONSE) ** 2)
    mu, sigma = math.log(RESPONSE) - sigma2 / 2, math.sqrt(sigma2)
    at = (math.log(max_tokens) - mu) / sigma
    return RESPONSE * _below(at - sigma) + max_tokens * (1 - _below(at))


def longest_of(rows: float) -> float:
    """About how long the longest response of so many rows is."""
    sigma2 = math.log(1 + (DEVIATION / RESPONSE) ** 2)
    return math.exp(math.log(RESPONSE) - sigma2 / 2 + math.sqrt(sigma2 * 2 * math.log(max(rows, 2))))


def _below(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2
