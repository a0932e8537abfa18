"""A run that takes over from another: what is alike is the same file, what differs is made anew, nothing is mixed."""

from pathlib import Path

import pytest
from builds import shard_path, small_recipe, tree

from magpie.build import build
from magpie.errors import RecipeChangedError, RunError
from magpie.runs.run import FINGERPRINTS, LOG, RECIPE, Run
from magpie.runs.sealing import REUSED
from magpie.runs.verify import verify

OTHER = {"dedup": {"threshold": 0.5}}


def same_files(one: Run, other: Run) -> set[str]:
    """The steps whose shards are one file in both runs."""
    return {
        run_step.name
        for run_step in one.steps
        if all(
            shard_path(one, run_step.name, shard).samefile(shard_path(other, run_step.name, shard))
            for shard in range(one.shards)
        )
    }


def same_but_for_metadata(one: Run, other: Run) -> None:
    """Shards that are taken over say by which recipe they were made; all else is the same to the byte."""
    assert one.table().equals(other.table())
    trees = [
        {name: data for name, data in tree(run.folder).items() if not name.startswith("steps/")}
        for run in (one, other)
    ]
    assert trees[0] == trees[1]


def test_what_comes_before_the_change_is_taken_over_and_the_rest_is_as_if_built_alone(tmp_path: Path) -> None:
    first = build(small_recipe(), tmp_path / "first")
    second = build(small_recipe(**OTHER), tmp_path / "second", reuse=first.folder)
    assert same_files(first, second) == {"instruct", "clean", "embed"}
    same_but_for_metadata(second, build(small_recipe(**OTHER), tmp_path / "alone"))
    assert verify(first) == verify(second) == []


def test_another_filter_costs_no_completion(tmp_path: Path) -> None:
    recipe = small_recipe(filter=[{"name": "long", "where": "response_length > 80"}])
    first = build(small_recipe(respond={"rows": "all"}), tmp_path / "first")
    changed = recipe.model_copy(update={"respond": first.recipe.respond})
    second = build(changed, tmp_path / "second", reuse=first.folder)
    assert same_files(first, second) == {run_step.name for run_step in first.steps} - {"filter"}
    assert '"event": "loaded"' not in (second.folder / LOG).read_text()


def test_an_unfinished_run_gives_what_it_has_and_the_build_goes_on(tmp_path: Path) -> None:
    first = build(small_recipe(), tmp_path / "first", stop_after="embed")
    shard_path(first, "embed", 3).unlink()
    damaged = shard_path(first, "clean", 1)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    second = build(small_recipe(**OTHER), tmp_path / "second", reuse=first.folder)
    same_but_for_metadata(second, build(small_recipe(**OTHER), tmp_path / "alone"))
    again = build(small_recipe(**OTHER), tmp_path / "second", reuse=first.folder)
    assert verify(again) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rows": 80}, r"other rows \(rows 96\)"),
        ({"name": "another"}, r"other rows \(name small\)"),
        ({"instruct": {"max_tokens": 9}}, "instructions in another way"),
    ],
)
def test_a_run_with_nothing_alike_is_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    first = build(small_recipe(), tmp_path / "first")
    with pytest.raises(RunError, match=why):
        build(small_recipe(**changes), tmp_path / "second", reuse=first.folder)
    assert not Run.open(tmp_path / "second").has_shards


def test_a_run_cannot_reuse_itself_or_what_is_no_run(tmp_path: Path) -> None:
    first = build(small_recipe(), tmp_path / "first")
    with pytest.raises(RunError, match="cannot reuse itself"):
        build(small_recipe(), first.folder, reuse=first.folder)
    with pytest.raises(RunError, match="is not a run"):
        build(small_recipe(), tmp_path / "second", reuse=tmp_path / "nothing")


def test_a_run_that_has_made_nothing_or_does_not_say_how_is_refused(tmp_path: Path) -> None:
    first = build(small_recipe(), tmp_path / "first", stop_after="instruct")
    for path in (first.folder / "steps").glob("*/*.parquet"):
        path.unlink()
    with pytest.raises(RunError, match="has made nothing yet; build it first"):
        build(small_recipe(), tmp_path / "second", reuse=first.folder)
    for broken in ("", "[]", "{}", '{"run": 3}'):
        (first.folder / FINGERPRINTS).write_text(broken)
        with pytest.raises(RunError, match="does not say how it was made"):
            build(small_recipe(), tmp_path / "second", reuse=first.folder)


FEW = {"rows": 32, "extend": None}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(small_recipe(**FEW), tmp_path_factory.mktemp("few") / "run")


def test_a_run_of_nothing_but_shards_of_another_has_its_own_recipe_back(few: Run, tmp_path: Path) -> None:
    recipe = small_recipe(**FEW, **OTHER)
    folder = build(recipe, tmp_path / "second", reuse=few.folder, stop_after="embed").folder
    assert {path.parent.name for path in folder.glob("steps/*/*")} == {"01-instruct", "02-clean", "03-embed"}
    for name in (RECIPE, FINGERPRINTS):
        (folder / name).unlink()
    run = Run.open(folder)
    assert run.recipe == recipe and len(run.notes) == 1
    with pytest.raises(RecipeChangedError, match="dedup"):
        build(small_recipe(**FEW), folder)
    build(recipe, folder)
    assert verify(Run.open(folder)) == []


def test_what_is_recorded_beside_shards_of_another_run_is_sealed_and_written_again(
    few: Run, tmp_path: Path
) -> None:
    recipe = small_recipe(**FEW, **OTHER)
    folder = build(recipe, tmp_path / "second", reuse=few.folder).folder
    written = (folder / REUSED).read_bytes()
    for damage in (None, b"", b"{}", written.replace(b"0.5", b"0.6")):
        (folder / REUSED).unlink()
        if damage is not None:
            (folder / REUSED).write_bytes(damage)
        assert any(REUSED in problem for problem in verify(Run.open(folder))), damage
        build(recipe, folder)
        assert (folder / REUSED).read_bytes() == written and verify(Run.open(folder)) == []


def test_where_that_is_damaged_no_other_recipe_is_taken_for_this_ones(few: Run, tmp_path: Path) -> None:
    recipe = small_recipe(**FEW, **OTHER)
    folder = build(recipe, tmp_path / "second", reuse=few.folder, stop_after="embed").folder
    (folder / REUSED).write_bytes(b"{")
    (folder / RECIPE).unlink()
    with pytest.raises(RunError, match=r"is not a run: it holds no recipe\.yaml"):
        Run.open(folder)
    assert build(recipe, folder).recipe == recipe
