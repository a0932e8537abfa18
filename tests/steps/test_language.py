import asyncio

import pyarrow as pa
import pytest
from recording import text_rows

from magpie.errors import RecipeError
from magpie.plan import BuildTools
from magpie.recipe import Language
from magpie.recipe.languages import LANGUAGES
from magpie.recipe.steer import Steer, SteerText
from magpie.steps.base import RowStep
from magpie.steps.language import LanguageStep

TEXTS = [
    "What is the capital of France?",
    "Wie backe ich ein gutes Brot?",
    "123 + 456",
    None,
    "如何提高我的英语口语水平？",
]


def run(texts, **settings):
    return detected(LanguageStep(Language(**settings)), text_rows(*texts))


def detected(step, table):
    """What the step adds; the models, which take seconds to load, stay for the next test."""
    result = asyncio.run(step.bind(BuildTools()).run(table, None))
    assert result.schema.equals(pa.schema([("id", pa.string()), *step.adds]))
    return result


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


def steer(text="{language}", **languages):
    prompts = (SteerText(id="a", text="{language}"), SteerText(id="b", text=text))
    values = tuple(SteerText(id=id, text=name) for id, name in languages.items())
    return Steer(prompts=prompts, variables={"language": values})


def test_a_check_against_what_rows_were_steered_to_needs_steering_to_languages():
    part = Language(keep="steered")
    with pytest.raises(RecipeError, match=r"needs languages to steer to; add `steer\.variables\.language`"):
        LanguageStep(part)
    with pytest.raises(
        RecipeError, match=r"`steer\.variables\.language`: 'no', 'python' cannot be detected; give"
    ):
        LanguageStep(part, steer(de="German", no="Norwegian", python="Python"))
    with pytest.raises(RecipeError, match=r"the prompt 'b' has none; put `\{language\}` into it"):
        LanguageStep(part, steer("In no language", de="German"))
    assert LanguageStep(part, steer(de="German")).reads == ("instruction", "steer_language")
    assert LanguageStep(Language(), steer(python="Python")).reads == ("instruction",)
    assert steer(de="German").names_languages
    assert not steer(de="German", python="Python").names_languages
    assert not Steer(prompts=(SteerText(id="a", text="Ask."),)).names_languages


@pytest.mark.slow
def test_a_closed_step_can_be_used_again():
    work = LanguageStep(Language()).bind(BuildTools())
    table = text_rows("How do bees fly?")
    for _ in range(2):
        assert asyncio.run(work.run(table, None))["language"].to_pylist() == ["en"]
        asyncio.run(work.close())
    asyncio.run(work.close())


@pytest.mark.slow
def test_languages_are_named_and_kept():
    assert run(TEXTS)["language"].to_pylist() == ["en", "de", None, None, "zh"]
    kept = run(TEXTS, keep=("en", "zh"))
    assert kept["language"].to_pylist() == ["en", "de", None, None, "zh"]
    assert kept["rejected"].to_pylist() == [None, "language: de", "language: unknown", None, None]
    many = run(["How do bees fly?", "Comment volent les abeilles ?"] * 100)
    assert many["language"].to_pylist() == ["en", "fr"] * 100
    assert run([]).num_rows == 0


@pytest.mark.slow
def test_a_row_in_another_language_than_it_was_steered_to_is_rejected():
    table = text_rows(*TEXTS).append_column("steer_language", pa.array(["de", "de", "fr", "zh", "zh"]))
    step = LanguageStep(Language(keep="steered"), steer(de="German", fr="French", zh="Chinese"))
    found = detected(step, table)
    assert found["language"].to_pylist() == ["en", "de", None, None, "zh"]
    assert found["rejected"].to_pylist() == ["language: en", None, "language: unknown", None, None]
