"""`steer` in a recipe: its short forms, its files, and what is wrong with it said in one line."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from magpie.errors import RecipeError
from magpie.recipe.loading import load_recipe, parse_recipe
from magpie.recipe.steer import Steer

WRITTEN: dict[str, Any] = {
    "name": "small",
    "rows": 10,
    "models": {"generator": {"model": "demo"}, "judge": "generator", "embedder": "demo-embedder"},
}


def steer(**written: Any) -> Steer:
    found = parse_recipe(WRITTEN | {"steer": written}).steer
    assert found is not None
    return found


def problem(*prompts: Any, **variables: Any) -> str:
    return problem_with(steer={"prompts": list(prompts), "variables": variables})


def problem_with(**changes: Any) -> str:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(WRITTEN | changes, origin="small.yaml")
    message = str(raised.value)
    assert message.startswith("small.yaml: ") and "\n" not in message
    return message.removeprefix("small.yaml: ")


def test_a_recipe_steers_nothing_unless_it_says_so() -> None:
    assert parse_recipe(WRITTEN).steer is None


def test_the_short_forms_say_what_the_long_form_says() -> None:
    long = [{"id": "graphs", "text": "graphs"}, {"id": "binary-search", "text": "Binary search", "share": 2}]
    whole = steer(prompts=[{"id": "1", "text": "Help with {domain}."}], variables={"domain": long})
    for short in (
        ["graphs", {"text": "Binary search", "share": 2}],
        {"graphs": "graphs", "binary-search": {"text": "Binary search", "share": 2}},
    ):
        found = steer(prompts={1: "Help with {domain}."}, variables={"domain": short})
        assert found == whole
    assert steer(prompts=["A {year}."], variables={"year": [1990, 2000]}).variables["year"][0].id == "1990"


def test_a_text_is_its_own_name_where_it_is_short_and_else_its_place_is() -> None:
    texts = [
        "C++",
        "C#",
        "naïve Bayes",
        "Node.js",
        "Größe!",
        "You help people who " + "write code, " * 5,
        "?",
    ]
    found = steer(prompts=texts)
    assert [text.id for text in found.prompts] == ["c++", "c#", "naïve-bayes", "node.js", "größe", "6", "7"]
    assert [text.text for text in found.prompts] == texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("domains.txt", "graphs\n\n  trees\n"),
        ("domains.jsonl", '"graphs"\n{"text": "trees"}\n\n'),
        ("domains.yaml", "- graphs\n- trees\n"),
        ("domains.yml", "graphs: graphs\ntrees: {text: trees}\n"),
    ],
)
def test_prompts_and_values_may_lie_in_files_beside_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / name).write_text(content)
    (here / "prompts.txt").write_text("You help with {domain}.\n")
    written = {"prompts": {"file": "prompts.txt"}, "variables": {"domain": {"file": name}}}
    (here / "mine.yaml").write_text(yaml.safe_dump(WRITTEN | {"steer": written}))
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe(here / "mine.yaml", rows=7)
    assert recipe.steer is not None
    assert [text.id for text in recipe.steer.variables["domain"]] == ["graphs", "trees"]
    assert recipe.steer.prompts[0].text == "You help with {domain}."
    # A run folder holds the recipe with the texts in it, and needs the files no more.
    resolved = yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert parse_recipe(resolved) == recipe


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('"a"\n{"text": \n')
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")

    def said(name: str) -> str:
        return problem_with(steer={"prompts": {"file": str(tmp_path / name)}})

    assert "line 2 of" in said("broken.jsonl") and "is not JSON; mend that line" in said("broken.jsonl")
    assert said("latin.txt").endswith("latin.txt is not UTF-8 text; save it as UTF-8")
    assert said("prompts.docx").endswith(
        "prompts.docx must end in .yaml, .txt, .jsonl, .json, .csv or .parquet; rename it"
    )
    assert said("none.txt").endswith("No such file or directory; check the path and its rights")
    assert said("none.txt").startswith("`steer.prompts`: cannot read ")
    with pytest.raises(RecipeError, match=r"broken\.yaml is not valid YAML: line 2"):
        parse_recipe(WRITTEN | {"steer": {"prompts": {"file": str(tmp_path / "broken.yaml")}}})


@pytest.mark.parametrize(
    ("prompts", "variables", "said"),
    [
        ([], {}, "`steer`: needs `prompts`, a `catalogue` or `documents`; add one of them"),
        ([""], {}, "`steer.prompts.0.text`: must be text that is not empty, not ''"),
        (["a {domian}"], {"domain": ["x"]},
         "`steer`: the prompt 'a-domian' holds `{domian}`, which is no variable; write `{domain}`, "
         "or `{{domian}}` for the braces themselves"),
        (["a {topic}"], {},
         "`steer`: the prompt 'a-topic' holds `{topic}`, which is no variable; add it to `variables`, "
         "or `{{topic}}` for the braces themselves"),
        (["a"], {"domain": ["x"]},
         "`steer`: no prompt holds `{domain}`; put it into one, or take 'domain' out of `variables`"),
        (["a {domain}"], {"domain": []}, "`steer`: the variable 'domain' has no values; give it some, or take it out"),
        (["a {domain}"], {"domain": ["x", "X"]},
         "`steer`: the id 'x' is given to two of the values of 'domain'; give each an `id` of its own"),
        (["a", "a"], {}, "`steer`: the id 'a' is given to two of the prompts; give each an `id` of its own"),
        (["a {domain}"], {"domain": {False: "Norwegian"}},
         "`steer.variables.domain`: YAML reads an id as False; write the id in quotes"),
        (["a {domain}"], {"domain": [{"id": "a b", "text": "x"}]},
         "`steer.variables.domain.0.id`: must be a name without spaces, `;` and `=`, not 'a b'"),
        (["a {domain}"], {"domain": [{"text": "x", "shar": 2}]},
         "`steer.variables.domain.0.shar` is not a setting; did you mean `share`?"),
        ([{"text": "x", "shar": 2}], {}, "`steer.prompts.0.shar` is not a setting; did you mean `share`?"),
        (["a {domain}"], {"domain": [None]},
         "`steer.variables.domain.0`: must be a mapping of keys to values, not null"),
        (["a {domain}"], {"domain": "x"}, "`steer.variables.domain`: must be a list, not 'x'"),
        (["a"], {"Domain": ["x"]},
         "`steer`: the variable 'Domain' must be named in lower-case letters, digits and `_`"),
        (["{a}{b}{c}"], {name: list(map(str, range(101))) for name in "abc"},
         "`steer`: prompts and values make 1,030,301 pairings; use `combine: sample` for so many"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_to_do(
    prompts: list[Any], variables: dict[str, Any], said: str
) -> None:
    assert problem(*prompts, **variables) == said


def test_steer_and_a_system_prompt_of_ones_own_are_not_given_together() -> None:
    message = problem_with(steer={"prompts": ["a"]}, instruct={"system_prompt": "b"})
    assert message.endswith("both give the system prompt of the user's message; keep one")


def test_steering_is_switched_off_and_changed_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    written = {"prompts": ["Ask about {domain}."], "variables": {"domain": ["graphs"]}}
    path.write_text(yaml.safe_dump(WRITTEN | {"steer": written}))
    assert load_recipe(path, overrides={"steer": None}).steer is None
    changed = load_recipe(path, overrides={"steer.variables.domain": ["trees", "heaps"]}).steer
    assert changed is not None and [text.id for text in changed.variables["domain"]] == ["trees", "heaps"]
    both = {"steer.variables.era": ["old"], "steer.prompts": ["{era} {domain}"], "steer.combine": "sample"}
    added = load_recipe(path, overrides=both).steer
    assert added is not None and list(added.variables) == ["domain", "era"]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(WRITTEN))
    on = load_recipe(tmp_path / "plain.yaml", overrides={"steer.prompts": ["a"]}).steer
    assert on is not None and on.prompts[0].text == "a"


@pytest.mark.parametrize("keep", ["en", [False], 3, {"en": 1}])
def test_languages_are_kept_by_a_list_or_as_steered(keep: Any) -> None:
    said = problem_with(language={"keep": keep})
    assert said.startswith(
        "`language.keep`: must be a list of languages such as [en, de], or `steered`, not "
    )


def test_a_pipe_where_a_file_is_meant_is_said_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "texts.txt")
    recipe = WRITTEN | {"steer": {"prompts": {"file": "texts.txt"}}}
    with pytest.raises(RecipeError, match=r"texts\.txt: it is no file"):
        parse_recipe(recipe, folder=tmp_path)
    question = {"prompt": {"file": "texts.txt"}, "answer": {"a": {"type": "text"}}}
    with pytest.raises(RecipeError, match=r"the question `q`: .*texts\.txt: it is no file"):
        parse_recipe(WRITTEN | {"tag": {"tags": ["q"], "questions": {"q": question}}}, folder=tmp_path)
