"""Instructions of datasets made elsewhere, whatever shape they are in."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from magpie.data.instructions import read_instructions
from magpie.errors import RecipeError

TEXTS = ("Bake bread.", "Sing a song.")
SHAPES = {
    "instruction": list(TEXTS),
    "prompt": list(TEXTS),
    "question": list(TEXTS),
    "messages": [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}] for text in TEXTS
    ],
    "conversations": [[{"from": "human", "value": text}, {"from": "gpt", "value": "No."}] for text in TEXTS],
}


@pytest.mark.parametrize("column", SHAPES)
def test_instructions_are_found_in_every_shape_and_file(tmp_path, column):
    values = SHAPES[column]
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({column: value, "other": 1}) + "\n" for value in values))
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps([{column: value} for value in values]))
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"other": [1, 2], column: values}), table)
    for path in (lines, whole, table):
        found = read_instructions(str(path))
        assert found.texts == TEXTS
        assert found.ids == (f"{path}:1", f"{path}:2")


def test_a_dataset_keeps_its_own_ids_and_counts_rows_that_have_no_instruction(tmp_path):
    path = tmp_path / "some.jsonl"
    rows = [
        {"id": "a", "messages": []},
        {"id": 7, "messages": SHAPES["messages"][0]},
        {"messages": SHAPES["messages"][1]},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    found = read_instructions(str(path))
    assert found.ids == ("7", f"{path}:3")
    assert found.texts == TEXTS


def test_an_id_of_0_is_an_id_and_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"id": 0, "question": "Bake bread."}\n{"id": "", "question": "Sing."}\n', "utf-8-sig")
    found = read_instructions(str(path))
    assert found.ids == ("0", f"{path}:2")
    assert found.texts == ("Bake bread.", "Sing.")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1], "task": ["1 + 1?"]}, "row 1 of .* has no instruction; it has id, task, and one"),
        ({"prompt": [[1, 2]]}, "not one row of .* has an instruction: `prompt` without a text"),
        ({"instruction": pa.nulls(2, pa.string())}, "not one row of .* has an instruction: `instruction`"),
        ({"text": [1, 2]}, "not one row of .* has an instruction: `text`"),
    ],
)
def test_a_dataset_that_would_be_compared_with_nothing_is_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "some.parquet")
    with pytest.raises(RecipeError, match=message):
        read_instructions(str(tmp_path / "some.parquet"))


def test_a_dataset_without_rows_has_no_instructions(tmp_path):
    pq.write_table(pa.table({"instruction": pa.nulls(0, pa.string())}), tmp_path / "some.parquet")
    assert read_instructions(str(tmp_path / "some.parquet")).texts == ()


def test_a_folder_is_read_file_by_file_and_a_run_by_its_dataset(tmp_path):
    for folder in (tmp_path / "plain", tmp_path / "run" / "dataset"):
        folder.mkdir(parents=True)
        for name, text in zip(("b", "a"), TEXTS, strict=True):
            pq.write_table(pa.table({"id": [name], "instruction": [text]}), folder / f"{name}.parquet")
    (tmp_path / "run" / "recipe.yaml").write_text("name: run\n")
    for folder in ("plain", "run"):
        assert read_instructions(str(tmp_path / folder)).ids == ("a", "b")


def test_the_digest_follows_the_content(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"id": "a", "text": "Bake bread."}\n')
    before = read_instructions(str(path)).digest
    assert read_instructions(str(path)).digest == before
    path.write_text('{"id": "a", "text": "Bake cakes."}\n')
    assert read_instructions(str(path)).digest != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("some.jsonl", '{"score": 1}', r"row 1 of .*some.jsonl has no instruction; it has score"),
        ("some.jsonl", "{", r"line 1 of .*some.jsonl is not JSON; mend that line \(column 2: "),
        ("some.parquet", "no", r"some.parquet cannot be read .*; check"),
        ("some.exe", "a,b", r"some.exe is no dataset; give a file that ends in .parquet, .*.csv"),
        ("missing.jsonl", None, r"there is no .*missing.jsonl; give a run, a file, or a hub dataset"),
        (".", None, r"holds no dataset; finish its build"),
    ],
)
def test_what_is_no_dataset_is_said_to_be_none(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        read_instructions(str(path))


def test_names_of_columns_and_fields_are_those_of_any_script(tmp_path):
    path = tmp_path / "wide.jsonl"
    rows = [
        {"Ｉｎｓｔｒｕｃｔｉｏｎ": TEXTS[0]},
        {"\u200bMessages": [{"Ｒole": "USER", "CONTENT": TEXTS[1]}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_instructions(str(path)).texts == TEXTS
