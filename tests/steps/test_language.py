import asyncio

import pyarrow as pa
import pytest

from magpie.errors import RecipeError
from magpie.recipe import Language
from magpie.steps.base import RowStep
from magpie.steps.language import LANGUAGES, LanguageStep

TEXTS = [
    "What is the capital of France?",
    "Wie backe ich ein gutes Brot?",
    "123 + 456",
    None,
    "如何提高我的英语口语水平？",
]


def rows(texts):
    rejected = ["clean: empty" if text is None else None for text in texts]
    return pa.table(
        {
            "id": [f"r{n}" for n in range(len(texts))],
            "index": pa.array(range(len(texts)), pa.int64()),
            "rejected": pa.array(rejected, pa.string()),
            "instruction": pa.array(texts, pa.string()),
        }
    )


def run(texts, **settings):
    return asyncio.run(LanguageStep(Language(**settings)).run(rows(texts), None))


def test_every_language_is_known_by_its_code():
    from lingua import Language as Lingua

    assert frozenset(language.iso_code_639_1.name.lower() for language in Lingua.all()) == LANGUAGES


def test_a_language_that_cannot_be_detected_is_refused_at_once():
    with pytest.raises(RecipeError, match="'EN', 'english' cannot be detected; give ISO 639-1 codes"):
        LanguageStep(Language(keep=("de", "english", "EN")))


def test_without_keep_no_row_is_rejected():
    step = LanguageStep(Language())
    assert isinstance(step, RowStep)
    assert step.adds.names == ["language"]
    assert step.settings == {"keep": None}


@pytest.mark.slow
def test_a_closed_step_can_be_used_again():
    step = LanguageStep(Language())
    table = rows(["How do bees fly?"])
    for _ in range(2):
        assert asyncio.run(step.run(table, None))["language"].to_pylist() == ["en"]
        asyncio.run(step.close())
    asyncio.run(step.close())


@pytest.mark.slow
def test_languages_are_named_and_kept():
    assert run(TEXTS)["language"].to_pylist() == ["en", "de", None, None, "zh"]
    kept = run(TEXTS, keep=("en", "zh"))
    assert kept["language"].to_pylist() == ["en", "de", None, None, "zh"]
    assert kept["rejected"].to_pylist() == [None, "language: de", "language: unknown", None, None]
    many = run(["How do bees fly?", "Comment volent les abeilles ?"] * 100)
    assert many["language"].to_pylist() == ["en", "fr"] * 100
    assert run([]).num_rows == 0
