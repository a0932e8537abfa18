"""A filter over rows that are there: its funnel adds up, what it says of each rule is so, and it needs no run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_recipe

from magpie.build import build
from magpie.data.published import Published
from magpie.data.select import EXAMPLES, compare_filters, refilter
from magpie.errors import FilterError, MagpieError, RecipeError, RunError
from magpie.recipe import Filter, Quotas, Rule, Top
from magpie.runs.kept import RunRows
from magpie.runs.run import DATASET
from magpie.runs.verify import verify

GOOD = Rule(name="good", where="input_quality IN ('good', 'excellent')")
COLON = Rule(name="no colon", where="NOT ends_with(instruction, ':')")
LONG = Rule(name="long", where="response_length > 30")
QUOTAS = Quotas(by="difficulty", each=20)


def drawn(rows: int, *, seed: int = 3) -> list[dict[str, Any]]:
    """Rows in the columns of a published set, drawn by seed."""
    draw = random.Random(seed)
    return [
        {
            "uuid": f"uuid-{at}",
            "instruction": f"Number {at}" + draw.choice([":", "?", "."]),
            "response": "word " * draw.randrange(20),
            "difficulty": draw.choice(["easy", "medium", "hard", None]),
            "input_quality": draw.choice(["poor", "good", "excellent", None]),
        }
        for at in range(rows)
    ]


def written(folder: Path, rows: list[dict[str, Any]], *, files: int = 3) -> Published:
    """The rows as Parquet files with several row groups each."""
    (folder / "data").mkdir(parents=True)
    table, each = pa.Table.from_pylist(rows), -(-len(rows) // files)
    for number in range(files):
        path = folder / "data" / f"train-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table.slice(number * each, each), path, row_group_size=17)
    return Published(folder)


def test_the_funnel_adds_up_and_tells_what_each_rule_alone_would_lose(tmp_path: Path) -> None:
    rows = drawn(200)
    rules = {
        "good": lambda row: row["input_quality"] in {"good", "excellent"},
        "no colon": lambda row: not row["instruction"].endswith(":"),
        "long": lambda row: len(row["response"]) > 30,
    }
    filter = Filter(rules=(GOOD, COLON, LONG), quotas=QUOTAS, top=Top(by="response_length", n=30))
    found = refilter(written(tmp_path / "in", rows), filter, None, explain=True)
    left = rows
    for (name, passes), one in zip(rules.items(), found.explained[:3], strict=True):
        lost = [row for row in left if not passes(row)]
        assert (one.line.name, one.line.rows_in, one.line.lost) == (name, len(left), len(lost))
        assert one.alone == sum(not passes(row) for row in rows)
        assert one.share == one.line.lost / one.alone
        assert one.examples == tuple((row["uuid"], row["instruction"]) for row in lost[:EXAMPLES])
        left = [row for row in left if passes(row)]
    assert tuple(one.line for one in found.explained) == found.lines
    assert [line.name for line in found.lines] == ["good", "no colon", "long", "quota", "top"]
    assert all(line.rows_in == line.lost + line.left for line in found.lines)
    assert [line.rows_in for line in found.lines] == [200, *(line.left for line in found.lines[:-1])]
    assert found.kept == found.lines[-1].left == 30
    sizes = [sum(row["difficulty"] == one for row in rows) for one in ("easy", "medium", "hard", None)]
    assert [one.alone for one in found.explained[3:]] == [sum(max(0, size - 20) for size in sizes), 170]
    assert not list(tmp_path.glob("out*"))


def test_a_rule_that_cannot_stand_alone_says_so(tmp_path: Path) -> None:
    rows = [{"instruction": text} for text in ("7", "seven", "3")]
    number = Rule(name="a number", where="regexp_matches(instruction, '^[0-9]+$')")
    large = Rule(name="large", where="instruction::INT > 5")
    found = refilter(
        written(tmp_path / "in", rows, files=1), Filter(rules=(number, large)), None, explain=True
    )
    assert [(one.line.lost, one.alone, one.share) for one in found.explained] == [
        (1, 1, 1.0),
        (1, None, None),
    ]
    assert found.explained[0].examples == (("1", "seven"),)


def test_a_run_is_explained_too(tmp_path: Path) -> None:
    run = build(small_recipe(filter=None), tmp_path / "run")
    rule = Rule(name="hard", where="difficulty = 'hard'")
    before = sorted(tmp_path.rglob("*"))
    found = refilter(RunRows(run), Filter(rules=(rule,)), None, explain=True)
    assert sorted(tmp_path.rglob("*")) == before
    live = [row for row in run.table().to_pylist() if row["rejected"] is None]
    lost = [row for row in live if row["difficulty"] != "hard"]
    (one,) = found.explained
    assert (one.line.rows_in, one.line.lost, one.alone) == (len(live), len(lost), len(lost))
    assert one.examples == tuple((row["id"], row["instruction"]) for row in lost[:EXAMPLES])


def test_a_dataset_takes_the_place_of_nothing_else(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "users.parquet").write_bytes(b"mine")
    with pytest.raises(RunError, match=r"users\.parquet"):
        refilter(RunRows(run), Filter(name="all"), mine)
    assert (mine / "users.parquet").read_bytes() == b"mine"
    with pytest.raises(RunError, match="the run itself"):
        refilter(RunRows(run), Filter(name="all"), run.folder / DATASET)
    assert verify(run) == []


def test_refiltering_keeps_what_a_build_with_that_filter_would(tmp_path: Path) -> None:
    other = Filter(name="other", rules=(Rule(name="hard", where="difficulty = 'hard'"),))
    raw = build(small_recipe(filter=None), tmp_path / "raw")
    found = refilter(RunRows(raw), other, tmp_path / "out")
    kept, lines = found.kept, found.lines
    built = build(small_recipe(filter=other.model_dump(mode="json")), tmp_path / "built")
    messages = pq.read_table(tmp_path / "out")["messages"].to_pylist()
    assert messages == built.dataset()["messages"][:]
    assert kept == len(messages) == lines[-1].left
    assert [(line.rows_in - line.lost, line.name) for line in lines] == [(kept, "hard")]


def test_refiltering_a_filtered_run_counts_only_rows_that_came_to_it(tmp_path: Path) -> None:
    run = build(small_recipe(), tmp_path / "run")
    everything = Filter(name="all")
    found = refilter(RunRows(run), everything, tmp_path / "all")
    answered = [row for row in run.table(["response"]).to_pylist() if row["response"] is not None]
    assert found.kept == len(answered)
    assert found.never_answered > 0
    assert found.lines == ()
    compared = compare_filters(RunRows(run), everything, everything)
    assert (compared.rows, compared.never_answered) == (found.kept, found.never_answered)


def test_two_filters_are_compared_row_by_row(tmp_path: Path) -> None:
    rows = drawn(200)
    found = compare_filters(
        written(tmp_path / "in", rows),
        Filter(name="one", rules=(GOOD,)),
        Filter(name="other", rules=(COLON, Rule(name="x", where="reward > 1", when_present=True))),
    )
    one = {row["uuid"] for row in rows if row["input_quality"] in {"good", "excellent"}}
    other = {row["uuid"] for row in rows if not row["instruction"].endswith(":")}
    assert (found.names, found.rows, found.both) == (("one", "other"), 200, len(one & other))
    assert found.only == (len(one - other), len(other - one))
    assert found.neither == 200 - len(one | other)
    assert found.jaccard == len(one & other) / len(one | other)
    assert found.skipped == ((), ("x (reads reward)",))
    nothing = Filter(rules=(Rule(name="none", where="false"),))
    assert compare_filters(Published(tmp_path / "in"), nothing, nothing).jaccard is None


def test_a_dataset_is_filtered_without_a_run_and_its_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = drawn(200)
    source = written(tmp_path / "in", rows)
    found = refilter(source, Filter(rules=(GOOD, LONG)), tmp_path / "out")
    expected = [
        row for row in rows if row["input_quality"] in {"good", "excellent"} and len(row["response"]) > 30
    ]
    assert pq.read_table(tmp_path / "out").to_pylist() == expected
    assert (source.rows, found.kept) == (200, len(expected))
    one = Published(next((tmp_path / "out").glob("*.parquet")))
    assert refilter(one, Filter(), None).kept == len(expected)
    none = refilter(source, Filter(rules=(Rule(name="none", where="false"),)), tmp_path / "none")
    assert none.kept == 0 and pq.read_table(tmp_path / "none").schema.names == list(rows[0])


def test_no_column_is_read_that_the_filter_does_not_need(tmp_path: Path) -> None:
    source = written(tmp_path / "in", drawn(50))
    assert source.columns(["difficulty"]).column_names == ["id", "index", "rejected", "difficulty"]
    assert source.columns([])["id"].to_pylist() == list(range(50))
    named = Filter(rules=(Rule(name="by id", where="id = 'uuid-7'"),))
    assert refilter(source, named, None).kept == 1


def test_columns_of_the_first_published_sets_are_found_under_the_later_names(tmp_path: Path) -> None:
    rows = [
        {"conversation_id": f"c-{at}", "input": "Why?", "output": "é" * at, "Output_Length": 90}
        for at in range(3)
    ]
    source = written(tmp_path / "in", rows, files=1)
    read = source.columns(["uuid", "instruction", "response", "response_length", "instruction_length"])
    assert read.to_pylist()[1] == {
        "id": 1, "index": 1, "rejected": None, "uuid": "c-1", "instruction": "Why?", "response": "é",
        "response_length": 90, "instruction_length": 4,
    }  # fmt: skip
    assert {"id", "uuid", "instruction", "response"} <= set(source.schema.names)
    assert "min_similar_uuid" not in source.schema.names


@pytest.mark.parametrize(
    ("column", "role", "content", "speakers"),
    [("conversations", "from", "value", ("human", "gpt")), ("messages", "role", "content", ("user", "assistant"))],
)  # fmt: skip
def test_texts_are_told_from_conversations(
    tmp_path: Path, column: str, role: str, content: str, speakers: tuple[str, str]
) -> None:
    said = [(speakers[0], "Why?"), (speakers[1], "So."), (speakers[0], "And?"), (speakers[1], "Longer.")]
    whole = [{role: "system", content: "Be brief."}, *({role: who, content: text} for who, text in said)]
    source = written(tmp_path / "in", [{column: whole}, {column: None}, {column: whole[:2]}], files=1)
    read = source.columns(["instruction", "response", "response_length"]).to_pylist()
    assert [(row["instruction"], row["response"], row["response_length"]) for row in read] == [
        ("Why?", "So.", 3), (None, None, None), ("Why?", None, None),
    ]  # fmt: skip
    assert source.texts([0, 1]) == {0: ("0", "Why?"), 1: ("1", "")}


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("input", [[{"role": "user", "content": "Why?"}], None]),
        ("output", [1, 2]),
    ],
)
def test_a_column_of_no_texts_has_no_length_and_is_in_nobodys_way(
    tmp_path: Path, column: str, values: Any
) -> None:
    pq.write_table(pa.table({column: values, "input_quality": ["good", "poor"]}), tmp_path / "in.parquet")
    source = Published(tmp_path / "in.parquet")
    assert not [name for name in source.schema.names if name.endswith("_length")]
    assert refilter(source, Filter(rules=(GOOD,)), tmp_path / "out").kept == 1
    with pytest.raises(FilterError, match="reads 'response_length', a column the dataset does not have"):
        refilter(source, Filter(top=Top(by="response_length", n=1)), None)


def test_texts_may_be_encoded_or_all_missing(tmp_path: Path) -> None:
    encoded = pa.array(["Why?", None, "Why?"]).dictionary_encode()
    pq.write_table(pa.table({"instruction": encoded, "response": pa.nulls(3)}), tmp_path / "in.parquet")
    read = Published(tmp_path / "in.parquet").columns(["instruction_length", "response_length"])
    assert read["instruction_length"].to_pylist() == [4, None, 4]
    assert read["response_length"].to_pylist() == [None, None, None]


def test_what_a_preference_set_calls_rejected_is_not_a_reason(tmp_path: Path) -> None:
    rows = [{"instruction": "Why?", "rejected": [{"role": "assistant", "content": "No."}]}]
    source = written(tmp_path / "in", rows, files=1)
    assert refilter(source, Filter(rules=(COLON,)), tmp_path / "out").kept == 1
    assert pq.read_table(tmp_path / "out").to_pylist() == rows
    with pytest.raises(FilterError, match=r"reads 'rejected', a column the dataset does not have"):
        refilter(source, Filter(rules=(Rule(name="x", where="rejected IS NULL"),)), None)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(RecipeError) as error:
            Published(path)
        return str(error.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("words")
    assert "is not there" in refused(tmp_path / "nowhere")
    assert "holds no dataset" in refused(tmp_path / "empty")
    assert "cannot be read as Parquet" in refused(tmp_path / "text.parquet")
    written(tmp_path / "two", drawn(5), files=1)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "two" / "z.parquet")
    assert "z.parquet has other columns than train-00000-of-00001.parquet" in refused(tmp_path / "two")


def test_a_dataset_does_not_take_its_own_place(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(drawn(5)), tmp_path / "train-00000.parquet")
    for source in (Published(tmp_path), Published(tmp_path / "train-00000.parquet")):
        with pytest.raises(RunError, match="holds the dataset itself"):
            refilter(source, Filter(), tmp_path)
    assert pq.read_table(tmp_path / "train-00000.parquet").num_rows == 5


def test_a_failing_rule_writes_nothing(tmp_path: Path) -> None:
    source = written(tmp_path / "in", drawn(5), files=1)
    with pytest.raises(MagpieError, match="a column the dataset does not have"):
        refilter(source, Filter(rules=(Rule(name="x", where="nope = 1"),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
