"""Who made what: a run goes on with the hub commit it began with."""

from builds import small_recipe

from magpie.plan import BoundPlan, BuildTools, adopt_commits, bind, make_plan, pin_commits
from magpie.recipe import Recipe
from magpie.runs.ids import parse_id, prefix_of, row_ids

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def bound(recipe: Recipe) -> BoundPlan:
    return bind(make_plan(recipe), BuildTools())


def recorded(model: str, revision: str | None) -> dict[str, object]:
    return {"models": {"generator": {"model": model, "revision": revision}}}


def test_a_recorded_commit_is_gone_on_with() -> None:
    recipe = adopt_commits(small_recipe(), recorded("scripted", COMMIT))
    assert recipe.models["generator"].revision == COMMIT
    assert recipe.models["judge"].revision is None


def test_another_model_takes_no_commit_over() -> None:
    assert adopt_commits(small_recipe(), recorded("other/model", COMMIT)) == small_recipe()
    assert adopt_commits(small_recipe(), None) == small_recipe()


def test_a_revision_in_the_recipe_stands() -> None:
    models = {
        "generator": {"model": "scripted", "revision": "v2"},
        "judge": "generator",
        "embedder": "scripted",
    }
    recipe = adopt_commits(small_recipe(models=models), recorded("scripted", COMMIT))
    assert recipe.models["generator"].revision == "v2"


def test_what_has_no_commit_is_not_pinned() -> None:
    recipe = small_recipe()
    assert pin_commits(make_plan(recipe), BuildTools()) == recipe


def test_settings_upstream_change_every_fingerprint_below_and_none_above() -> None:
    one, other = (bound(small_recipe(**change)) for change in ({}, {"dedup": {"threshold": 0.2}}))
    same = [a == b for a, b in zip(one.fingerprints, other.fingerprints, strict=True)]
    at = [item["step"] for item in one.ingredients].index("dedup")
    assert same == [position < at for position in range(len(same))]


def test_ids_name_the_recipe_and_the_position() -> None:
    prefix = bound(small_recipe()).id_prefix
    assert prefix.startswith("small-")
    ids = row_ids(prefix, range(7, 9))
    assert ids == [f"{prefix}-00000007", f"{prefix}-00000008"]
    assert {prefix_of(one) for one in ids} == {prefix}
    assert [parse_id(text) for text in (ids[0], "7", "seven")] == [(prefix, 7), (None, 7), None]


def test_code_that_comes_with_a_model_makes_it_another_maker() -> None:
    made_of = []
    for trusted in (False, True):
        embedder = {"model": "demo-embedder", "engine": "transformers", "trust_remote_code": trusted}
        models = {"generator": "scripted", "judge": "generator", "embedder": embedder}
        made_of.append(bound(small_recipe(models=models)).ingredients)
    differing = [one["step"] for one, other in zip(*made_of, strict=True) if one["model"] != other["model"]]
    assert differing == ["embed"]
