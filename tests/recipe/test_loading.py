from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from magpie import shipped
from magpie.errors import RecipeError
from magpie.recipe import Recipe
from magpie.recipe.loading import load_filter, load_recipe, parse_recipe, parse_value

WRITTEN: dict[str, Any] = {
    "name": "small",
    "rows": 10,
    "models": {"generator": {"model": "demo"}, "judge": "generator", "embedder": "demo-embedder"},
}


def problem(raw: Any, origin: str = "small.yaml") -> str:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(raw, origin=origin)
    return str(raised.value)


def problem_with(**changes: Any) -> str:
    return problem(WRITTEN | changes)


def problem_setting(dotted: str, value: Any) -> str:
    with pytest.raises(RecipeError) as raised:
        load_recipe("demo", overrides={dotted: value})
    return str(raised.value)


def problem_in(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as raised:
        load_recipe(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(str(path))


@pytest.mark.parametrize("name", shipped.names("recipes"))
def test_every_shipped_recipe_loads_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


@pytest.mark.parametrize("name", shipped.names("filters"))
def test_every_shipped_filter_loads_and_says_what_it_is(name: str) -> None:
    loaded = load_filter(name)
    assert loaded.name == name
    assert loaded.description
    assert loaded.rules or loaded.top


@pytest.mark.parametrize("name", shipped.names("recipes"))
def test_a_resolved_recipe_written_as_yaml_reads_as_itself(name: str) -> None:
    section = "bootstrap" if name == "self-instruct" else "instruct"
    recipe = load_recipe(name, rows=77, overrides={f"{section}.max_tokens": 99})
    text = yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True)
    assert parse_recipe(yaml.safe_load(text)) == recipe


def test_an_unknown_key_is_named_with_its_path_and_the_nearest_right_key() -> None:
    assert problem_with(rowz=3) == "small.yaml: `rowz` is not a setting; did you mean `rows`?"
    mistyped = problem_with(instruct={"mix": [{"share": 1}, {"temprature": 1.1}]})
    assert mistyped == "small.yaml: `instruct.mix.1.temprature` is not a setting; did you mean `temperature`?"
    assert "the settings there are: name, description, rules" in problem_with(filter={"zzz": 1})


def test_an_unknown_key_inside_a_model_is_named_once_though_two_roles_share_the_model() -> None:
    models = WRITTEN["models"] | {"generator": {"model": "demo", "context_lenght": 512}}
    assert problem_with(models=models) == (
        "small.yaml: `models.generator.context_lenght` is not a setting; did you mean `context_length`?"
    )


def test_a_role_may_have_the_name_of_a_setting() -> None:
    models = WRITTEN["models"] | {"server": {"model": "demo", "slotz": 8}}
    assert problem_with(models=models) == (
        "small.yaml: `models.server.slotz` is not a setting; did you mean `slots`?"
    )


def test_every_mistake_is_told_in_one_line() -> None:
    message = problem_with(rows="many", sed=1, tag={"max_tokens": 3})
    assert message.count("\n") == 0
    for part in ("`rows`", "`sed`", "`tag.max_tokens`"):
        assert part in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": "many"}, "`rows`: must be a whole number, not 'many'"),
        ({"rows": 1.5}, "`rows`: must be a whole number, not 1.5"),
        ({"rows": True}, "`rows`: must be a number, not True"),
        ({"rows": 0}, "`rows`: must be greater than or equal to 1, not 0"),
        ({"description": 3}, "`description`: must be text, not 3"),
        ({"instruct": 3}, "`instruct`: must be a mapping of keys to values, not 3"),
        ({"models": None}, "`models`: must be a mapping of keys to values, not null"),
        ({"instruct": {"mix": 1}}, "`instruct.mix`: must be a list, not 1"),
        ({"instruct": {"mix": []}}, "`instruct.mix`: must be a list of at least one entry, not []"),
        ({"clean": {"min_length": None}}, "`clean.min_length`: must be a whole number, not null"),
        ({"instruct": {"stop_at_newline": "ja"}}, "`instruct.stop_at_newline`: must be true or false, not 'ja'"),
        ({"tag": {"tags": ["qualty"]}}, "`tag`: `tags` names 'qualty', which is no question; did you mean `quality`?"),
        ({"engine": ""}, "`engine`: must be text that is not empty, not ''"),
        ({"tag": {"model": ""}}, "`tag.model`: must be text that is not empty, not ''"),
        ({"name": "A"},
         "`name`: must be lower-case letters, digits, `.`, `_` and `-`, a letter or digit first, not 'A'"),
        ({"pii": {"phone_region": "us"}}, "`pii.phone_region`: must be two capital letters, such as US, not 'us'"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named_with_its_path_and_what_it_must_be(
    changes: dict[str, Any], message: str
) -> None:
    assert problem_with(**changes) == f"small.yaml: {message}"


def test_a_long_wrong_value_is_not_repeated_in_full() -> None:
    assert len(problem_with(rows="many " * 1000)) < 200


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_a_recipe_that_is_no_mapping_is_refused(raw: Any) -> None:
    assert problem(raw) == "small.yaml holds no settings; it must be a YAML mapping such as `rows: 100`"


def test_a_file_that_is_not_yaml_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    assert "line 2, column 11" in problem_in(path, "name: a\nrows: [1, }\n")
    assert "line 2, column 1" in problem_in(path, "name: a\n\trows: 3\n")
    assert "line 3, column 1: `rows` is written twice" in problem_in(path, "name: a\nrows: 3\nrows: 4\n")
    assert "UTF-8" in problem_in(path, b"name: \xff\n")
    assert "holds no settings" in problem_in(path, "")


def test_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    problem_in(tmp_path / "evil.yaml", "name: !!python/object/apply:os.getcwd []\nrows: 1\n")


def test_a_recipe_that_is_not_there_names_those_that_ship() -> None:
    with pytest.raises(RecipeError, match=r"^no recipe 'dmeo'; give a YAML file or one of: .*demo"):
        load_recipe("dmeo")


def test_one_role_may_point_at_another_in_a_chain_but_not_in_a_circle() -> None:
    models = {"a": {"model": "demo"}, "b": "a", "generator": "b", "judge": "generator", "embedder": "x"}
    recipe = parse_recipe(WRITTEN | {"models": models})
    assert recipe.models["judge"] == recipe.models["a"]
    assert recipe.models["embedder"].model == "x"
    circle = problem_with(models={"generator": "judge", "judge": "generator"})
    assert circle.startswith("small.yaml: `models.generator` points at itself")


def test_a_role_that_points_at_another_follows_its_changes() -> None:
    recipe = load_recipe("demo", overrides={"models.generator.context_length": 1024})
    assert recipe.models["judge"].context_length == 1024
    assert recipe.models["judge"] == recipe.models["generator"]


def test_a_role_that_is_changed_itself_no_longer_follows() -> None:
    recipe = load_recipe("demo", overrides={"models.judge.model": "other"})
    assert recipe.models["judge"].model == "other"
    assert recipe.models["generator"].model == "demo"


def test_engine_replaces_every_models_engine_unless_a_model_is_set_by_name() -> None:
    written = parse_recipe(WRITTEN | {"models": {"generator": {"model": "demo", "engine": "server"}}, "tag": None,
                                      "embed": None, "dedup": None})  # fmt: skip
    assert written.model("generator").engine == "server"
    recipe = load_recipe("demo", engine="scripted", overrides={"models.judge.engine": "transformers"})
    assert recipe.model("generator").engine == "scripted"
    assert recipe.model("embedder").engine == "scripted"
    assert recipe.model("judge").engine == "transformers"


def test_overrides_reach_into_lists_and_switch_sections_off_and_on() -> None:
    recipe = load_recipe("demo", overrides={"instruct.mix.1.top_p": 0.5, "extend": None, "dedup": None})
    assert [draw.top_p for draw in recipe.instruct.mix] == [1.0, 0.5, 1.0]
    assert recipe.extend is None
    assert recipe.dedup is None
    assert load_recipe("demo", overrides={"language.keep": ["en"]}).language is not None


def test_a_section_that_is_off_is_switched_on_by_setting_one_of_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(WRITTEN | {"extend": None}))
    extended = load_recipe(path, overrides={"extend.turns": 3}).extend
    assert extended is not None
    assert extended.turns == 3


@pytest.mark.parametrize(
    ("dotted", "message"),
    [
        ("instruct.max_token", "no `max_token` in `instruct`; did you mean `max_tokens`?"),
        ("instrct.max_tokens", "no `instrct` in a recipe; did you mean `instruct`?"),
        (
            "models.nobody.model",
            "no `nobody` in `models`; the settings there are: generator, judge, embedder",
        ),
        ("instruct.mix.9.top_p", "`instruct.mix` has 3 entries; use a number below that"),
        ("instruct.mix.first.top_p", "`instruct.mix` has 3 entries; use a number below that"),
        ("rows.more", "`rows` is a value, with nothing below it; set `rows` itself"),
    ],
)
def test_set_on_a_path_that_is_not_there_names_the_path_and_the_nearest_key(
    dotted: str, message: str
) -> None:
    assert problem_setting(dotted, 1) == f"--set {dotted}: {message}"


def test_a_wrong_value_names_the_option_that_gave_it() -> None:
    assert problem_setting("rows", "x") == "--set rows: `rows`: must be a whole number, not 'x'"
    assert problem_setting("filter", "dmeo").startswith("--set filter: no filter 'dmeo'; give a YAML file or")
    with pytest.raises(RecipeError, match=r"^--rows: `rows`: must be greater than or equal to 1, not 0$"):
        load_recipe("demo", rows=0)


def test_keys_of_ones_own_may_be_set() -> None:
    kwargs = {"models.generator.chat_template_kwargs.enable_thinking": False}
    assert load_recipe("demo", overrides=kwargs).models["generator"].chat_template_kwargs == {
        "enable_thinking": False
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("null", None), ("[a, b]", ["a", "b"]), ("{a: 1}", {"a": 1}),
     ("plain words", "plain words"), ("[broken", "[broken")],
)  # fmt: skip
def test_set_reads_its_value_as_yaml(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_a_filter_is_found_by_name_given_as_a_file_or_written_in_the_recipe(tmp_path: Path) -> None:
    rules = [{"name": "long enough", "where": "length(instruction) > 20"}]
    as_list, as_mapping = tmp_path / "strict.yaml", tmp_path / "named.yaml"
    as_list.write_text(yaml.safe_dump(rules))
    as_mapping.write_text(yaml.safe_dump({"name": "mine", "rules": rules, "top": {"by": "id", "n": 5}}))

    assert load_filter(as_list).name == "strict"
    assert load_filter(as_mapping).name == "mine"
    assert load_filter(as_list).rules == load_filter(as_mapping).rules

    def of(written: Any) -> Any:
        return parse_recipe(WRITTEN | {"filter": written}).filter

    assert of("demo") == load_filter("demo")
    assert of(str(as_list)) == load_filter(as_list)
    assert of(rules).rules == load_filter(as_list).rules
    assert of({"rules": rules}).rules == load_filter(as_list).rules
    assert of(None) is None


def test_the_filter_of_a_recipe_file_is_a_filter_too(tmp_path: Path) -> None:
    rules = [{"name": "long enough", "where": "length(instruction) > 20"}]
    path = tmp_path / "mine.yaml"

    def of(**written: Any) -> Any:
        path.write_text(yaml.safe_dump(WRITTEN | written))
        return load_filter(path)

    assert of(filter="demo") == load_filter("demo")
    assert of(filter=rules).rules == of(filter={"rules": rules}).rules
    assert of(filter=rules).name == "mine"
    assert of(filter={"name": "strict", "rules": rules}).name == "strict"
    for written in ({}, {"filter": None}):
        with pytest.raises(RecipeError, match=r"mine\.yaml is a recipe without a filter; give"):
            of(**written)
    with pytest.raises(RecipeError, match=r"the filter of .*mine\.yaml: `tpo` is not a setting"):
        of(filter={"tpo": 3})
    with pytest.raises(RecipeError, match=r"mine\.yaml: no filter 'dmeo'"):
        of(filter="dmeo")


def test_mistakes_in_a_filter_are_named_like_those_in_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "strict.yaml"
    path.write_text(yaml.safe_dump({"top": {"by": "a", "n": 3, "ordr": "asc"}}))
    with pytest.raises(
        RecipeError, match=r"strict\.yaml: `top\.ordr` is not a setting; did you mean `order`\?$"
    ):
        load_filter(path)
    assert problem_with(filter="dmeo").startswith(
        "small.yaml: no filter 'dmeo'; give a YAML file or one of: "
    )
    assert (
        problem_with(filter={"quotas": {"by": "a"}})
        == "small.yaml: `filter.quotas`: needs `each` or `counts`"
    )


def test_loading_does_not_change_what_it_is_given() -> None:
    raw = yaml.safe_load(yaml.safe_dump(WRITTEN | {"filter": "demo"}))
    parse_recipe(raw)
    assert raw == WRITTEN | {"filter": "demo"}
    assert isinstance(parse_recipe(raw), Recipe)


def test_a_model_may_be_set_for_a_role_that_there_is_not_yet_but_not_for_one_mistyped() -> None:
    recipe = load_recipe("demo", overrides={"reward": {}, "models.reward": "demo-reward"})
    assert recipe.models["reward"].model == "demo-reward"
    with pytest.raises(RecipeError, match="did you mean `generator`"):
        load_recipe("demo", overrides={"models.genrator": "demo"})
