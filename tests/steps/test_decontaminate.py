import json

import numpy as np
import pyarrow as pa
import pytest
from recording import SCRIPTED, text_rows
from recording import run as run_step

from magpie.engines.embedder import scripted_vectors, unit
from magpie.plan import BuildTools
from magpie.recipe import Decontaminate
from magpie.steps.base import GlobalStep
from magpie.steps.decontaminate import NEAR, SHARED_WORDS, DecontaminateStep, NGrams

LONG = (
    "A farmer has seventeen sheep and all but nine of them run away over the hill; "
    "how many sheep has the farmer left?"
)


@pytest.fixture
def exam(tmp_path):
    path = tmp_path / "exam.jsonl"
    asked = ["Name the capital of France, please.", LONG, "Hi there"]
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in asked))
    return str(path)


def run(table, **settings):
    found = run_step(DecontaminateStep(Decontaminate(**settings), SCRIPTED), table)
    return found["contaminated_by"].to_pylist(), found["rejected"].to_pylist()


def test_thirteen_words_in_a_row_are_a_hit_and_shown(exam):
    words = "all but nine of them run away over the hill how many sheep"
    hits, reasons = run(
        text_rows(
            "Tell me: ALL but nine, of them, run away over the hill: how many sheep are lost?",
            None,
            "All but nine of them run away over the hill, how many are lost?",
            "Write a poem about sheep.",
        ),
        files=exam,
    )
    assert hits == [f"{exam}:2: {words}", None, None, None]
    assert reasons == [SHARED_WORDS, None, None, None]


def test_a_shorter_question_counts_whole_and_a_phrase_only_by_itself(exam):
    hits, _ = run(
        text_rows(
            "Please name the capital of France please",
            "Name the capital of France",
            "Hi there, Ann",
            "hi there!",
        ),
        files=exam,
    )
    assert hits == [f"{exam}:1: name the capital of france please", None, None, f"{exam}:3: hi there"]


def test_where_words_have_no_spaces_between_them_characters_count(tmp_path):
    path = tmp_path / "exam.jsonl"
    asked = ["小明有三个苹果和两个梨，他给了小红一个苹果，还剩几个水果？", "日本でいちばん高い山はどこ？"]
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in asked))
    hits, _ = run(
        text_rows(
            "请回答：小明有三个苹果和两个梨。他给了小红一个苹果。",
            "小明有三个苹果。",
            "Ask GPT4日本でいちばん高い山はどこ",
            "日本の山",
        ),
        files=str(path),
    )
    assert hits == [
        f"{path}:1: 小 明 有 三 个 苹 果 和 两 个 梨 他 给",
        None,
        f"{path}:2: 日 本 で い ち ば ん 高 い 山 は ど こ",
        None,
    ]


def test_shorter_n_grams_find_more(exam):
    hits, _ = run(text_rows("How many sheep has she?", "How many cows has she?"), files=exam, ngram=4)
    assert hits == [f"{exam}:2: how many sheep has", None]


def test_a_row_that_is_merely_near_shows_the_text_that_it_is_near(exam):
    texts = [
        LONG.replace("seventeen", "eighteen").replace("nine of them", "nine of these"),
        "Hi there, there",
        "Sing.",
    ]
    vectors = unit(scripted_vectors(texts)).astype(np.float16)
    table = text_rows(*texts).append_column("embedding", pa.array(list(vectors), pa.list_(pa.float16())))
    hits, reasons = run(table, files=(exam,), ngram=20, distance=0.4)
    assert reasons == [NEAR, NEAR, None]
    assert hits[0].startswith(f"{exam}:2: A farmer has seventeen sheep")
    assert hits[0].endswith("...")
    assert hits[1:] == [f"{exam}:3: Hi there", None]
    assert run(text_rows(*texts), files=(exam,), ngram=20) == ([None] * 3, [None] * 3)


def test_the_first_text_that_has_an_n_gram_is_named():
    grams = NGrams(["a b c d e f", "x a b c d e"], 3)
    assert grams.first_in("so a b c") == (0, "a b c")
    assert grams.first_in("x, A! b?") == (1, "x a b")
    assert grams.first_in("") is None


def test_it_is_a_global_step_whose_fingerprint_follows_the_files(exam, tmp_path):
    step = DecontaminateStep(Decontaminate(files=exam))
    assert isinstance(step, GlobalStep)
    assert step.reads == ("instruction",)
    settings, before = step.settings, step.fingerprint(BuildTools())
    assert "files" not in settings and before == {**settings, "files": before["files"]}
    (tmp_path / "exam.jsonl").write_text('{"question": "What else is new today?"}\n')
    assert step.fingerprint(BuildTools()) != before
    assert step.settings == settings
    assert run(text_rows(), files=exam) == ([], [])
