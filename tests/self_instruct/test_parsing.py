"""What a model wrote is taken apart at the next expected number: no task is lost, and none is invented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magpie.errors import RecipeError
from magpie.self_instruct.parsing import (
    CUT,
    LABEL_INSIDE,
    UNFINISHED,
    Draft,
    parse_instances,
    split_numbered,
)
from magpie.self_instruct.prompts import (
    instances_page,
    instances_question,
    kind_page,
    numbered_list,
    one_line,
)
from magpie.self_instruct.tasks import example_tasks, read_tasks, seed_tasks

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "seed_tasks.jsonl"

# Lines that look like the list's own numbers, and numbers in every place.
PIECES = st.sampled_from(
    [
        "Write",
        "a list",
        "\n",
        "\n1. ",
        "\n3.",
        "\n10.5",
        "10. ",
        " 11.",
        "\n9. ",
        "\n12) ",
        "\n\n",
        "x",
        "2",
        ".",
        "  ",
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@given(st.lists(TEXTS, min_size=1, max_size=7), st.sampled_from([". ", ") ", ".\n", " . "]))
def test_no_task_that_was_set_off_is_lost_and_none_is_invented(tasks: list[str], mark: str) -> None:
    # A task may hold any number but the one that is expected after it, which nobody could tell from the list's own.
    tasks = [
        re.sub(rf"(\A|\n)[ \t]*{number + 1}[ \t]?[.)]", "\n-", text)
        for number, text in enumerate(tasks, start=9)
    ]
    written = " " + tasks[0]
    for number, text in enumerate(tasks[1:], start=10):
        written += f"\n{number}{mark}{text}"
    parsed = split_numbered(written, 9, 15)
    if parsed.rest == "" and not re.search(r"\n[ \t]*1\d[ \t]?[.)]?$", "\n".join(tasks)):
        assert [text.strip() for text in parsed.texts] == [text.strip() for text in tasks]


@given(st.text(st.sampled_from("\n .)19x50"), max_size=60), st.integers(1, 20), st.integers(0, 8))
def test_the_texts_are_the_whole_text_again(text: str, first: int, more: int) -> None:
    parsed = split_numbered(text, first, first + more)
    assert 1 <= len(parsed.texts) <= more + 1
    at = 0
    for number, part in enumerate(parsed.texts, start=first):
        if number > first:
            mark = re.compile(rf"\n[ \t]*{number}[ \t]?[.)]").match(text, at)
            assert mark, "a part began elsewhere than at the expected number"
            at = mark.end()
        assert text.startswith(part, at)
        at += len(part)
    assert text[at:] == parsed.rest
    if parsed.rest:
        assert re.match(rf"\n[ \t]*{first + more + 1}[ \t]?[.)]", parsed.rest)


def test_inner_lists_years_and_decimals_begin_no_task() -> None:
    text = " List the steps:\n1. Boil\n2. Stir\n10. Add 10.5 litres\n10.5 litres more\n11. Why 1968.\n1970. was it?"
    assert split_numbered(text, 9, 15).texts == (
        " List the steps:\n1. Boil\n2. Stir",
        " Add 10.5 litres\n10.5 litres more",
        " Why 1968.\n1970. was it?",
    )


def test_a_number_that_is_skipped_splits_nothing() -> None:
    assert split_numbered(" One\n11. Three\n12. Four", 9, 15).texts == (" One\n11. Three\n12. Four",)


def test_what_comes_from_the_number_after_the_last_on_is_no_task() -> None:
    parsed = split_numbered(" a\n10. b\n11. c", 9, 10)
    assert (parsed.texts, parsed.rest) == ((" a", " b"), "\n11. c")


def test_our_seeds_make_prompts_in_the_published_numbering() -> None:
    check_prompts(seed_tasks(None))


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published seeds are not beside the checkout")
def test_the_published_seeds_are_read_and_make_prompts() -> None:
    tasks = seed_tasks(str(PUBLISHED))
    assert len(tasks) == 175 and all(task.instances for task in tasks)
    assert {task.is_classification for task in tasks} == {True, False}
    check_prompts(tasks)
    assert kind_page(tasks[:31]).count("Is it classification?") == 31


def check_prompts(tasks: tuple[object, ...]) -> None:
    for start in range(0, len(tasks) - 8, 8):
        shown = [task.instruction for task in tasks[start : start + 8]]  # type: ignore[attr-defined]
        page = numbered_list(shown)
        assert page.endswith("\n9.")
        # What a model is shown is what is read from what it writes.
        read = split_numbered(page.removeprefix("1.").removesuffix("\n9."), 1, 8).texts
        assert [text.strip() for text in read] == [one_line(text) for text in shown]


def test_tasks_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "seeds.jsonl"
    for line, said in (
        ('{"instruction": "a"}\n{"instruction": ""}', "seeds.jsonl:2 has no `instruction`"),
        ('{"instruction": "a"}\n{"instruction": "b", "instances": [{"input": "c"}]}', "`instances` must be"),
        ('{"instruction": "a", "id": "x"}\n{"instruction": "b", "id": "x"}', "the id 'x'"),
        ("[]", "holds no task"),
    ):
        file.write_text(line)
        with pytest.raises(RecipeError, match=said):
            read_tasks(file)


WHOLE = " 3 apples\nOutput: fruit\nExample 2\nInput: a chair\nOutput: not fruit"


def test_instances_in_both_orders() -> None:
    found = parse_instances(WHOLE, output_first=False, most=5, is_cut=False)
    assert found == [Draft("3 apples", "fruit"), Draft("a chair", "not fruit")]
    turned = " fruit\nInput: 3 apples\nExample 2\nOutput: not fruit\nInput: a chair\n"
    assert parse_instances(turned, output_first=True, most=5, is_cut=False) == found


def test_a_task_without_input_says_so() -> None:
    for nothing in ("(none)", "None", "", "N/A"):
        (draft,) = parse_instances(f" {nothing}\nOutput: A poem.", output_first=False, most=5, is_cut=False)
        assert draft == Draft("", "A poem.")


def test_a_cut_costs_the_instance_that_it_cut_and_no_other() -> None:
    """The original throws away the last one that it could read, whether that was the one that was cut or not."""
    for tail, lost in (
        ("\nExample 3\nInput: a ta", [Draft("a ta", "", CUT)]),
        ("\nExample 3\nInput: a table\nOutput: not fr", [Draft("a table", "not fr", CUT)]),
        ("\nExample 3\nInp", []),
        ("\nExample 3", []),
    ):
        found = parse_instances(WHOLE + tail, output_first=False, most=5, is_cut=True)
        assert found == [Draft("3 apples", "fruit"), Draft("a chair", "not fruit"), *lost]
    assert [one.problem for one in parse_instances(WHOLE, output_first=False, most=5, is_cut=True)] == [
        None,
        CUT,
    ]


def test_what_is_unfinished_says_so() -> None:
    (draft,) = parse_instances(" just a text", output_first=False, most=5, is_cut=False)
    assert draft == Draft("just a text", "", UNFINISHED)
    (draft,) = parse_instances(
        " a\nOutput: b\n\nInput: c\nOutput: d", output_first=False, most=5, is_cut=False
    )
    assert draft.problem == LABEL_INSIDE
    assert parse_instances("\n ", output_first=False, most=5, is_cut=False) == []


def test_a_label_alone_is_an_instance_of_a_task_that_needs_no_input() -> None:
    """As what the embedded model writes where a question asks for one of two words, and as the original takes it."""
    written = " brother\nExample 2\nOutput: sister\n"
    found = parse_instances(written, output_first=True, most=5, is_cut=False)
    assert found == [Draft("", "brother"), Draft("", "sister")]
    assert parse_instances(written + "Example 3\nOutput: no", output_first=True, most=5, is_cut=True) == [
        *found,
        Draft("", "no", CUT),
    ]


def test_no_more_than_asked_for() -> None:
    assert len(parse_instances(WHOLE, output_first=False, most=1, is_cut=False)) == 1


FIELD = st.text(st.sampled_from("abInput: \n2Example"), max_size=20).map(
    lambda text: re.sub(r"(?m)^[ \t]*(Input|Output|Task|Example)", "x", text).strip()
)


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=5), st.booleans())
def test_instances_as_they_are_shown_are_read_back(pairs: list[tuple[str, str]], output_first: bool) -> None:
    from magpie.self_instruct.tasks import Instance, Task

    task = Task("t", "Do it", tuple(Instance(one, other or "y") for one, other in pairs), False)
    page = instances_page([task], output_first=output_first)
    written = page.partition(instances_question("Do it", output_first=output_first))[2]
    found = parse_instances(written, output_first=output_first, most=5, is_cut=False)
    if not any("Example" in text for pair in pairs for text in pair):
        assert [(one.input, one.output, one.problem) for one in found] == [
            (one.input if one.input.lower() not in {"none", "n/a"} else "", one.output, None)
            for one in task.instances
        ]


def test_the_examples_that_ship_are_whole_and_come_in_both_kinds() -> None:
    tasks = example_tasks(None)
    assert {task.is_classification for task in tasks} == {True, False}
    assert max(len(task.instances) for task in tasks) > 2
    for task in tasks:
        page = instances_page([task], output_first=task.is_classification)
        question = instances_question(task.instruction, output_first=task.is_classification)
        found = parse_instances(
            page.partition(question)[2], output_first=task.is_classification, most=5, is_cut=False
        )
        assert [(one.input, one.output) for one in found] == [
            (one.input, one.output) for one in task.instances
        ]
        assert all(one.problem is None for one in found)
        json.dumps(page)
