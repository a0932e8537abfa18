"""What steps share, and all that they share: the contract, the columns, requests, and rows in and out."""

from magpie.steps.base.columns import (
    MESSAGE,
    REJECTED,
    column,
    counts_tokens,
    inner,
    is_inner,
    meaning_of,
    published_name,
    token_column,
)
from magpie.steps.base.looping import is_looping
from magpie.steps.base.page import Page
from magpie.steps.base.quoting import QuotingPrompt
from magpie.steps.base.requests import answer_sampling, complete_each, score_answer
from magpie.steps.base.rows import judged_or_not, live, seeds, spread, text_bytes, unit_vectors, values_at
from magpie.steps.base.sequential import SequentialStep, SequentialWork
from magpie.steps.base.step import (
    NOTE,
    GlobalStep,
    GlobalWork,
    Instructions,
    Label,
    ModelUse,
    PlanSteps,
    PreparedWork,
    RowStep,
    RowWork,
    Step,
    Tools,
    try_system_prompt,
)

__all__ = [
    "MESSAGE",
    "NOTE",
    "REJECTED",
    "GlobalStep",
    "GlobalWork",
    "Instructions",
    "Label",
    "ModelUse",
    "Page",
    "PlanSteps",
    "PreparedWork",
    "QuotingPrompt",
    "RowStep",
    "RowWork",
    "SequentialStep",
    "SequentialWork",
    "Step",
    "Tools",
    "answer_sampling",
    "column",
    "complete_each",
    "counts_tokens",
    "inner",
    "is_inner",
    "is_looping",
    "judged_or_not",
    "live",
    "meaning_of",
    "published_name",
    "score_answer",
    "seeds",
    "spread",
    "text_bytes",
    "token_column",
    "try_system_prompt",
    "unit_vectors",
    "values_at",
]
