import pyarrow as pa
import pytest
from recording import CHAT, SCRIPTED, Speaking
from recording import run as run_step

from magpie.plan import BuildTools
from magpie.recipe import Clean
from magpie.steps import clean
from magpie.steps.base import RowStep
from magpie.steps.clean import CleanStep, is_looping, strip

POEM = """Write a tune for these words:
The river runs down to the sea,
and carries my letter for me.
O come, little boat, come home before night,
O come, little boat, come home.
The harbour has put out its light,
and nothing but stars are in sight.
O come, little boat, come home before night,
O come, little boat, come home."""

CODE = """Why does this print nothing?
for row in table:
    for cell in row:
        if cell == 0:
            continue
        if cell == 1:
            continue
        if cell == 2:
            continue
        print(cell)"""

TABLE = """Which plan is cheaper after 12 months?
| plan  | month 1 | month 2 | month 3 |
|-------|---------|---------|---------|
| basic |    0.00 |    0.00 |   10.00 |
| basic |    0.00 |    0.00 |   10.00 |
| plus  |    5.00 |    5.00 |    5.00 |"""

SHOPPING = "Sort these by price:\n" + "\n".join(f"- item {n}: {n * 7 % 20} euros a piece" for n in range(40))


class Chat:
    def __init__(self, leaks):
        self.leaks = leaks

    def without_end(self, text):
        return text.removesuffix("<|im_end|>")


def rows(*raw, finish="stop", rejected=None):
    return pa.table(
        {
            "id": pa.array([f"r{n}" for n in range(len(raw))], pa.string()),
            "index": pa.array(range(len(raw)), pa.int64()),
            "rejected": pa.array([rejected] * len(raw), pa.string()),
            "raw_instruction": pa.array(raw, pa.string()),
            "instruct_finish_reason": pa.array([finish] * len(raw), pa.string()),
            "instruct_error": pa.array([None] * len(raw), pa.string()),
        }
    )


def run(table, *, leaks=(), **settings):
    step = CleanStep(Clean(**settings), "generator", SCRIPTED)
    return run_step(step, table, tools=Speaking(Chat(leaks)))


def reason(text, **settings):
    return run(rows(text), **settings)["rejected"][0].as_py()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("  How do bees fly?\n\n", "How do bees fly?"),
        ("Question: How do bees fly?", "How do bees fly?"),
        ("QUESTION 3: How do bees fly?", "How do bees fly?"),
        ("User: Q: How do bees fly?", "How do bees fly?"),
        ("### Instruction:\nHow do bees fly?", "How do bees fly?"),
        ("## Question 1\nHow do bees fly?", "How do bees fly?"),
        ("**Prompt:** How do bees fly?", "How do bees fly?"),
        ("**Question: How do bees fly?**", "How do bees fly?"),
        ("User's request: How do bees fly?", "How do bees fly?"),
        ("问题：蜜蜂怎么飞？", "蜜蜂怎么飞？"),
        ("1. How do bees fly?", "How do bees fly?"),
        ("(2) How do bees fly?", "How do bees fly?"),
        ("- How do bees fly?", "How do bees fly?"),
        ('"How do bees fly?"', "How do bees fly?"),
        ("“How do bees fly?”", "How do bees fly?"),
        ('"How do bees fly?', "How do bees fly?"),
        ('How do bees fly?"', "How do bees fly?"),
        ("'Why don't bees fall?'", "Why don't bees fall?"),
        ('1. **Question:** "How do bees fly?"', "How do bees fly?"),
    ],
)
def test_what_is_around_a_message_comes_off(raw, message):
    assert strip(raw) == message


@pytest.mark.parametrize(
    "text",
    [
        "1. Peel the apples.\n2. Core them.\nWhat comes next?",
        "1. e4 e5 2. Nf3 Nc6: which opening is this?",
        "- milk\n- eggs\nWhat can I cook with these?",
        '"Yes" and "no" in Finnish, please?',
        "3.5 is what share of 7?",
        "- 5 + 3 is how much?",
        "Questions about Rome: when was it founded?",
        "**Bold** and **bolder**",
        "`a` or `b`",
        'Which desk fits a screen of 27"',
        "",
    ],
)
def test_what_belongs_to_a_message_stays(text):
    assert strip(text) == text


def test_a_hostile_wrapping_is_given_up_on_soon():
    assert len(strip("1. " * 5000)) > 10_000
    assert strip('"' * 5000 + "hello" + '"' * 5000).startswith('"')


@pytest.mark.parametrize(
    "text",
    [
        "a" * 60,
        "What is the best way to the best way to the best way to the best way to the best way to",
        "What is the largest lake? What is the largest lake? What is the largest lake? ",
        "Write a poem about the sea.\n" * 5,
        "Tell me about cats. " + "no " * 200,
        "我想知道如何学习" * 10,
        "=" * 300,
        "Please write a long essay. Tell me a story of old. Please write a long essay. Say what it means now. "
        "Please write a long essay. Tell me a story of old. Say what it means now. Tell me a story of old.",
    ],
)
def test_a_stuck_model_is_noticed(text):
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        POEM,
        CODE,
        TABLE,
        SHOPPING,
        "What does `print('hello')\nprint('hello')\nprint('hello')\nprint('hello')` print?",
        "Never, never, never give up: who said that?",
        "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo: how can that be a sentence in English, and "
        "who was the first to write it down? Please explain the grammar.",
        "Fill in the blank: the cat sat on the ____________________________________________________________",
        "Solve 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0 + 0",
        "短い質問です",
        "",
    ],
)
def test_a_refrain_a_list_a_table_and_code_are_no_loops(text):
    assert not is_looping(text)


def test_each_reason_is_given():
    assert reason("How do bees fly?") is None
    assert reason("   ") == clean.EMPTY
    assert reason("Question:") == clean.EMPTY
    assert reason("?!?!?!?!?!") == clean.NO_WORDS
    assert reason("12 * 12 = ?") is None
    assert reason("Hi") == clean.TOO_SHORT
    assert reason("How do bees fly?", max_length=10) == clean.TOO_LONG
    assert reason("a" * 60) == clean.LOOPING
    assert reason("Hello<|eot|> there, friend", leaks=("<|eot|>", "<|x|>")) == clean.ROLE_HEADER
    assert reason("User: how are you?\nAssistant: fine, and you?") == clean.ROLE_HEADER
    assert reason("Which is larger?\nA: the sun\nB: the moon") is None
    assert run(rows("How do bees fly?", finish="length"))["rejected"][0].as_py() == clean.CUT
    assert run(rows("", finish="error"))["rejected"][0].as_py() == clean.ENGINE_ERROR
    assert run(rows(None))["rejected"][0].as_py() == clean.EMPTY
    assert all(text.startswith("clean: ") for text in clean.REASONS)


def test_a_text_that_repeats_itself_to_the_end_is_a_loop():
    assert run(rows("How do bees fly?", finish="repetition"))["rejected"][0].as_py() == clean.LOOPING


def test_prefixes_of_ones_own_come_off_like_labels():
    own = ("Here is a question:", "Here is", "***")
    assert strip("Here is a question: How do bees fly?", prefixes=own) == "How do bees fly?"
    assert strip('*** 1. HERE IS A QUESTION: "How do bees fly?"', prefixes=own) == "How do bees fly?"
    assert strip("How, here is a question: why?", prefixes=own) == "How, here is a question: why?"
    assert strip("(a) How do bees fly?", prefixes=("(A)",)) == "How do bees fly?"
    assert reason("Sure: ", prefixes=("Sure:",)) == clean.EMPTY
    table = run(rows("Sure: How do bees fly?"), prefixes=("Sure:",))
    assert table["instruction"].to_pylist() == ["How do bees fly?"]


def test_what_follows_a_mark_is_cut_away_with_all_that_is_wrong_with_it():
    raw = "How do bees fly?\n\n## Step 1: look\n## Step 2: " + "look " * 100
    at = ("## Step 2", "## Step 1")
    for finish in ("stop", "length", "repetition"):
        table = run(rows(raw, finish=finish), cut_at=at)
        assert table["instruction"].to_pylist() == ["How do bees fly?"]
    assert run(rows(raw, finish="error"), cut_at=at)["rejected"][0].as_py() == clean.ENGINE_ERROR
    assert run(rows("How do bees", finish="length"), cut_at=at)["rejected"][0].as_py() == clean.CUT
    assert (
        run(rows("Why?<|x|> ## Step 1"), leaks=("<|x|>",), cut_at=at)["rejected"][0].as_py()
        == clean.ROLE_HEADER
    )
    assert (
        run(rows("How do bees fly? ## Step 1<|x|>"), leaks=("<|x|>",), cut_at=at)["rejected"][0].as_py()
        is None
    )
    assert reason("## Step 1: look", cut_at=at) == clean.EMPTY
    assert reason("How do bees fly?") is None


def test_a_rejected_row_has_no_instruction_and_keeps_its_place():
    table = run(rows("Q: How do bees fly?", "", "Why is the sky blue?"))
    assert table["id"].to_pylist() == ["r0", "r1", "r2"]
    assert table["instruction"].to_pylist() == ["How do bees fly?", None, "Why is the sky blue?"]
    assert table.schema.names == ["id", "instruction", "rejected"]


def test_rows_that_were_rejected_before_are_passed_over():
    table = run(rows("How do bees fly?", rejected="earlier: reason"))
    assert table["instruction"].to_pylist() == [None]
    assert table["rejected"].to_pylist() == [None]


def test_no_rows_are_no_problem():
    assert run(rows()).num_rows == 0


def test_the_step_learns_leaks_from_a_chat_format():
    step = CleanStep(Clean(), "generator", SCRIPTED)
    assert isinstance(step, RowStep)
    assert step.bind(Speaking(Chat(("<|im_start|>",)))).leaks == ("<|im_start|>",)
    assert step.bind(BuildTools()).leaks == CHAT.leaks != ()
    assert step.uses.loaded is None  # the format is read, and no model loaded
    assert step.settings == {"min_length": 8, "max_length": 8192, "prefixes": [], "cut_at": []}
