"""Catalogues: what ships is whole, and what is dealt out of one is balanced, crossed, and the same every time."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import small_recipe, tree

from magpie import shipped
from magpie.build import build
from magpie.errors import RecipeError
from magpie.recipe.loading import load_recipe, parse_recipe
from magpie.recipe.steer import Steer, SteerText
from magpie.steps.instruct import InstructStep, steered
from magpie.steps.instruct.steering import values_in

NAMES = shipped.names("templates/topics")


def steer_of(name: str, **more: Any) -> Steer:
    steer = small_recipe(steer={"catalogue": name, **more}).steer
    assert steer is not None
    return steer


@pytest.mark.parametrize("name", NAMES)
def test_every_catalogue_that_ships_is_whole(name: str) -> None:
    steer = steer_of(name)
    assert {"topic", "kind"} <= steer.variables.keys()
    for values in steer.variables.values():
        assert len({value.text for value in values}) == len(values) == len({value.id for value in values})


def test_the_general_one_is_as_wide_as_it_says() -> None:
    variables = steer_of("general").variables
    fields = Counter(value.id.partition("/")[0] for value in variables["topic"])
    assert len(fields) == 16 and min(fields.values()) == 8
    assert len(variables["topic"]) >= 120 and len(variables["kind"]) == 20
    assert set(variables) == {"topic", "kind", "length", "formality", "expertise", "mood"}
    assert set(NAMES) == {"general", "math", "code", "support"}


def ids(steer: Steer, rows: int, *, seed: int = 3, first: int = 0) -> list[dict[str, str] | None]:
    return [
        None if one is None else {"prompt": one.id.partition(";")[0], **values_in(one.id)}
        for one in steered(steer, seed, np.arange(first, first + rows))
    ]


def deck(**lists: int) -> Steer:
    """A catalogue of which every prompt holds every variable."""
    held = " ".join(f"{{{name}}}" for name in lists)
    return Steer(
        prompts=tuple(SteerText(id=id, text=f"{id}: {held}") for id in ("one", "two")),
        variables={
            name: tuple(SteerText(id=f"{name}{at}", text=f"{name} {at}") for at in range(length))
            for name, length in lists.items()
        },
        combine="cycle",
    )


def test_every_round_holds_each_value_once_and_every_pair_comes_in_turn() -> None:
    steer = deck(topic=12, kind=5, mood=3)
    dealt = [one for one in ids(steer, 12 * 5) if one is not None]
    for number in range(5):
        stretch = dealt[12 * number : 12 * (number + 1)]
        assert len({one["topic"] for one in stretch}) == 12
        for name, length in (("kind", 5), ("mood", 3)):
            counts = Counter(one[name] for one in stretch)
            assert len(counts) == length and max(counts.values()) - min(counts.values()) <= 1
    pairs = Counter((one["topic"], one["kind"]) for one in dealt)
    assert set(pairs) == set(product({f"topic{at}" for at in range(12)}, {f"kind{at}" for at in range(5)}))
    assert set(pairs.values()) == {1}
    assert Counter(one["prompt"] for one in dealt)["one"] in range(27, 34)


def test_it_follows_from_position_and_seed_alone() -> None:
    steer = deck(topic=12, kind=5)
    whole = ids(steer, 100)
    assert ids(steer, 40, first=37) == whole[37:77] and ids(steer, 100, seed=4) != whole
    # The order is drawn: topics do not come as they are listed, and rounds differ.
    topics = [one["topic"] for one in whole if one]
    assert topics[:12] != topics[12:24] != sorted(topics[12:24])


def test_a_share_of_rows_has_no_prompt_and_takes_no_turn() -> None:
    bare = deck(topic=12, kind=5).model_copy(update={"unsteered": 0.1})
    dealt = ids(bare, 100)
    assert dealt.count(None) == 10
    assert all(dealt[at : at + 20].count(None) == 2 for at in range(0, 80))
    assert [one for one in dealt if one] == ids(deck(topic=12, kind=5), 90)


def test_a_build_has_their_columns_and_null_where_there_was_no_prompt(tmp_path: Path) -> None:
    steer = {"catalogue": "general", "unsteered": 0.25}
    recipe = small_recipe(steer=steer, filter=None, extend=None)
    run = build(recipe, tmp_path / "run")
    rows = run.dataset().to_list()
    assert rows and {"steer_topic", "steer_kind", "steer_mood", "steer_id"} <= rows[0].keys()
    every = run.table(["steer_id"])["steer_id"].to_pylist()
    assert every.count(None) == 24 and len({id for id in every if id}) == 72
    for row in rows:
        if row["steer_id"] is None:
            assert row["steer_topic"] is None
        else:
            assert row["steer_topic"] in row["steer_id"]
    # The texts stand in the run: it opens, and goes on, without the catalogue's file.
    assert run.recipe.steer is not None and run.recipe.steer.catalogue is None
    assert parse_recipe(run.recipe.model_dump(mode="json")) == run.recipe
    assert tree(build(recipe, tmp_path / "again").folder) == tree(run.folder)


def test_a_catalogue_of_ones_own_and_a_language_beside_it(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\nframes: {ask: 'The user asks about {topic}.'}\nfields: {sea: {boats: boats, fish: fish}}\n"
    )
    (tmp_path / "r.yaml").write_text(
        "name: r\nrows: 8\nmodels: {generator: demo}\n"
        "steer: {catalogue: own.yaml, variables: {language: {de: German, da: Danish}}}\n"
    )
    steer = load_recipe(tmp_path / "r.yaml").steer
    assert steer is not None and steer.names_languages
    prompts = {one.prompt for one in steered(steer, 1, np.arange(4)) if one}
    assert prompts == {
        f"The user asks about {topic}. The user writes in {language}."
        for topic, language in product(("boats", "fish"), ("German", "Danish"))
    }


@pytest.mark.parametrize(
    ("steer", "why"),
    [
        (
            {"catalogue": "genral"},
            "no catalogue 'genral'; give a YAML file or one of: code, general, math, support",
        ),
        ({"catalogue": "general", "prompts": ["a"]}, "brings its own prompts"),
        (
            {"catalogue": "general", "variables": {"mood": ["calm"]}},
            "the one variable of your own is `language`",
        ),
        ({}, "needs `prompts`, a `catalogue` or `documents`"),
        ({"prompts": [{"text": "a", "share": 2}, "b"], "combine": "cycle"}, "takes no `share`"),
        ({"catalogue": "bad.yaml"}, "`{topc}`"),
        ({"catalogue": "cultural.yaml", "variables": {"language": ["de"]}}, "belongs to one language"),
    ],
)
def test_what_cannot_be_is_refused(
    steer: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = "fields: {sea: {boats: boats}}\n"
    Path("bad.yaml").write_text("name: bad\nframes: {ask: 'About {topc}.'}\n" + fields)
    Path("cultural.yaml").write_text("name: c\nneutral: false\nframes: {ask: 'On {topic}.'}\n" + fields)
    with pytest.raises(RecipeError) as caught:
        small_recipe(steer=steer)
    assert why in str(caught.value)


def test_steering_of_before_has_the_settings_that_it_had() -> None:
    """No key more in what decides a fingerprint, and so the ids of rows: runs that were begun before go on."""
    recipe = load_recipe("code", engine="scripted")
    (step,) = InstructStep.plan(recipe, None)
    assert set(step.settings["steer"]) == {"prompts", "variables", "combine"}
