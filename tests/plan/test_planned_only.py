"""A build that is only planned: what is not there is said, and what another run would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builds import small_recipe

from magpie.build import build
from magpie.errors import RunError
from magpie.plan import DryRun, dry_run
from magpie.recipe.loading import load_recipe


def missing(tmp_path: Path, **overrides: Any) -> tuple[str, ...]:
    changes = {name.replace("__", "."): value for name, value in overrides.items()}
    return dry_run(load_recipe("demo", overrides=changes), tmp_path / "run").looked.missing


def test_nothing_is_missing_of_what_ships(tmp_path: Path) -> None:
    assert missing(tmp_path) == ()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["/models/x", "./x", "../x", "~/no/such", "a/b/c", "x/"])
def test_a_model_folder_that_is_not_there(tmp_path: Path, name: str) -> None:
    (problem,) = missing(tmp_path, models__generator=name)
    assert problem.startswith(f"`models.generator`: no model {name!r}: there is no such folder")


def test_a_folder_without_a_model_and_one_without_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (problem,) = missing(tmp_path, models__generator=str(folder))
    assert "holds no model" in problem
    (folder / "config.json").write_text("{}")
    (problem,) = missing(tmp_path, models__generator=str(folder))
    assert problem.startswith("`models.generator`: ")


def test_templates_and_datasets_that_are_not_there(tmp_path: Path) -> None:
    here = tmp_path / "here.jsonl"
    here.write_text('{"instruction": "a"}')
    problems = missing(
        tmp_path,
        models__generator__chat_template="./no.yaml",
        decontaminate={"files": [str(here), "no.csv"]},
        dedup__against=["org/dataset", "runs/no/such", str(here)],
    )
    assert [problem.partition(":")[0] for problem in problems] == [
        "`models.generator`",
        "`decontaminate.files`",
        "`dedup.against`",
    ]
    assert "no.csv" in problems[1] and "runs/no/such" in problems[2]


def test_what_is_on_the_hub_is_named_and_not_looked_up(tmp_path: Path) -> None:
    looked = dry_run(load_recipe("air"), tmp_path / "run").looked
    assert looked.missing == () and looked.elsewhere[0] == "meta-llama/Meta-Llama-3-8B-Instruct"


def test_what_would_be_taken_over_is_what_a_build_takes_over(tmp_path: Path) -> None:
    build(small_recipe(), tmp_path / "first")
    changed = load_recipe(small_recipe(), overrides={"dedup.threshold": 0.2})
    dry = dry_run(changed, tmp_path / "second", reuse=tmp_path / "first")
    shards = {taken.step: taken.shards for taken in dry.taken}
    assert isinstance(dry, DryRun) and not (tmp_path / "second").exists()
    assert {step for step, count in shards.items() if count} == {"instruct", "clean", "embed"}
    assert shards["instruct"] == changed.shards
    with pytest.raises(RunError, match="not a run"):
        dry_run(changed, tmp_path / "second", reuse=tmp_path / "nowhere")
    with pytest.raises(RunError, match="cannot reuse itself"):
        dry_run(small_recipe(), tmp_path / "first", reuse=tmp_path / "first")
