from __future__ import annotations

import re
from collections import Counter
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pytest
from builds import scripted, small_recipe
from rich.console import Console

from magpie.build import build
from magpie.errors import RunError
from magpie.report.show import show_rejected, show_row, show_rows
from magpie.runs.run import Run
from magpie.storage.sealed import inspect_shard, read_shard, write_shard

HOSTILE = "[bold red]obey[/] \x1b[2J\x1b]0;title\x07 [/nonsense] \u202eright to left\r\x9b31m"


def screen() -> Console:
    return Console(file=StringIO(), width=200, color_system=None)


def shown(console: Console) -> str:
    return console.file.getvalue()


def lines(text: str) -> str:
    """The text without boxes and line ends, to look for sentences in."""
    return " ".join(text.replace("│", " ").split())


def kept_ids(run: Run) -> list[str]:
    return run.table([], rejected=False)["id"].to_pylist()


def ids_in(run: Run, text: str) -> list[str]:
    return [row_id for row_id in run.table([])["id"].to_pylist() if row_id in text]


def write_into(run: Run, step: str, column: str, values: dict[int, str]) -> None:
    """Put texts into a shard as if a model had written them: position in the first shard -> text."""
    name = run.shard_name(run.step(step), 0)
    table = read_shard(run.storage, name)
    texts = [values.get(at, text) for at, text in enumerate(table[column].to_pylist())]
    table = table.set_column(table.column_names.index(column), column, pa.array(texts, pa.string()))
    write_shard(run.storage, name, table, inspect_shard(run.storage, name).stamp, replace=True)


def test_kept_rows_are_cards_with_their_tags_and_turns(finished: Run) -> None:
    console = screen()
    show_rows(finished, console, n=5)
    text = shown(console)
    ids = ids_in(finished, text)
    assert len(ids) == 5 and set(ids) <= set(kept_ids(finished))
    for row in finished.table().to_pylist():
        if row["id"] in ids:
            assert f"{row['task_category']} · {row['difficulty']} · {row['input_quality']} quality" in text
            for part in (
                row["instruction"],
                row["response"],
                *(turn["content"] for turn in row["later_turns"]),
            ):
                assert lines(part) in lines(text)


def test_the_seed_chooses_the_rows(finished: Run) -> None:
    chosen = set()
    for seed in (0, 0, 1, 2, 3):
        console = screen()
        show_rows(finished, console, n=2, seed=seed)
        chosen.add(tuple(ids_in(finished, shown(console))))
    assert 1 < len(chosen) <= 4


def test_asking_for_more_rows_than_there_are_gives_all(finished: Run) -> None:
    console = screen()
    show_rows(finished, console, n=1000)
    assert ids_in(finished, shown(console)) == kept_ids(finished)


def test_rejected_rows_stand_under_their_reasons(finished: Run) -> None:
    console = screen()
    show_rejected(finished, console, examples=2)
    text = shown(console)
    reasons = Counter(row["rejected"] for row in finished.table().to_pylist() if row["rejected"])
    assert f"{reasons.total()} of {finished.recipe.rows} rows are out" in text
    assert len(reasons) > 3
    for reason, count in reasons.items():
        assert f"{reason}  {count}\n" in text
    assert len(ids_in(finished, text)) == sum(min(2, count) for count in reasons.values())
    counts = [
        int(line.rpartition("  ")[2]) for line in text.splitlines() if line.rpartition("  ")[0] in reasons
    ]
    assert counts == sorted(counts, reverse=True)


def test_a_row_in_full_has_every_column_of_every_step_that_holds_something(finished: Run) -> None:
    row_id = kept_ids(finished)[0]
    first_shard = finished.read(finished.steps[0], 0)["id"].to_pylist()
    console = screen()
    show_row(finished, row_id, console)
    text = shown(console)
    assert "in: it is in the dataset" in text
    assert "null" not in text and " empty: instruct_error" in text
    for run_step in finished.steps:
        assert f"\n{run_step.folder}\n" in text
        values = finished.read(run_step, 0).to_pylist()[first_shard.index(row_id)]
        for name in run_step.step.adds.names:
            is_shown = f"  {name}: " in text or f"  {name}:\n" in text
            assert is_shown == (values[name] not in (None, [])), name
    assert "embedding: 64 numbers" in text


def test_a_rejected_row_says_why(finished: Run) -> None:
    row = next(row for row in finished.table().to_pylist() if row["rejected"] == "clean: cut by length")
    console = screen()
    show_row(finished, row["id"], console)
    assert "out: clean: cut by length" in shown(console)


def test_a_position_is_enough_to_name_a_row(finished: Run) -> None:
    by_position, by_id = screen(), screen()
    show_row(finished, "17", by_position)
    show_row(finished, finished.table([])["id"][17].as_py(), by_id)
    assert shown(by_position) == shown(by_id)


@pytest.mark.parametrize(
    "asked", ["96", "small-{prefix}-00000096", "other-00000095", "9" * 18, "", "x", "-5"]
)
def test_an_unknown_row_is_an_error_that_names_the_nearest(finished: Run, asked: str) -> None:
    ids = finished.table([])["id"].to_pylist()
    asked = asked.replace("small-{prefix}", ids[0].rpartition("-")[0])
    with pytest.raises(RunError, match="the nearest ids are") as caught:
        show_row(finished, asked, screen())
    assert (ids[95] if "9" in asked else ids[0]) in str(caught.value)


def test_an_unfinished_run_is_shown_as_far_as_it_goes(half: Run) -> None:
    console = screen()
    show_rows(half, console, n=3)
    assert "6 of 6 shards still have steps to go, from embed on" in shown(console)
    assert len(set(re.findall(r"small-[0-9a-f]{8}-\d{8}", shown(console)))) == 3
    console = screen()
    show_row(half, "3", console)
    assert "embed is next" in shown(console) and "instruction: " in shown(console)
    assert "03-embed" not in shown(console)
    console = screen()
    show_rejected(half, console)
    assert "of 96 rows are out" in shown(console)


def test_a_run_without_rows_says_so(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run", stop_after="instruct")
    for shard in range(1, run.shards):
        run.storage.delete(run.shard_name(run.step("instruct"), shard))
    with pytest.raises(RunError, match="00000020 is not made yet"):
        show_row(run, "20", screen())
    run.storage.delete(run.shard_name(run.step("instruct"), 0))
    with pytest.raises(RunError, match="holds no rows yet"):
        show_row(run, "0", screen())
    console = screen()
    show_rows(run, console)
    assert "no row is made yet" in shown(console)


def test_what_a_model_wrote_reaches_the_terminal_as_text_only(tmp_path: Path) -> None:
    run = build(small_recipe(filter=None), tmp_path / "run")
    everyone = dict.fromkeys(range(run.recipe.shard_rows), HOSTILE)
    for step, column in (("instruct", "raw_instruction"), ("clean", "instruction"), ("respond", "response")):
        write_into(run, step, column, everyone)
    write_into(run, "tag", "task_category", everyone)
    write_into(run, "clean", "rejected", {3: "clean: [red]no\x1b[0m"})
    for act in (
        lambda console: show_rows(run, console, n=96),
        lambda console: show_rejected(run, console),
        lambda console: show_row(run, "0", console),
        lambda console: show_row(run, "3", console),
    ):
        console = screen()
        act(console)
        assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set(shown(console))
        assert r"[bold red]obey[/] \x1b[2J\x1b]0;title\x07 [/nonsense] \u202eright" in lines(shown(console))


def test_a_pair_is_shown_side_by_side_with_its_rewards(tmp_path: Path) -> None:
    models = scripted() | {"reward": "scripted"}
    recipe = small_recipe(models=models, respond=None, extend=None, prefer={"responses": 3}, filter=None)
    run, console = build(recipe, tmp_path / "run"), screen()
    show_rows(run, console, n=1)
    text = shown(console)
    (row,) = [row for row in run.table().to_pylist() if row["id"] in text]
    assert f"chosen {row['chosen_reward']:.4g} · rejected {row['rejected_reward']:.4g}" in text
    said = lines(text)
    parts = [
        "user",
        row["instruction"],
        "chosen",
        row["chosen_response"],
        "rejected",
        row["rejected_response"],
    ]
    assert " ".join(parts) in said
