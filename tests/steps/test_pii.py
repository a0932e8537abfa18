"""What may belong to a person is found, marked, put out or replaced, and what only looks like it is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builds import small_recipe
from recording import base_rows, run

from magpie.build import build
from magpie.plan import make_plan
from magpie.recipe import Pii
from magpie.runs.run import with_columns
from magpie.runs.verify import verify
from magpie.steps.base import RowStep
from magpie.steps.pii import PiiStep, find

KEY = "abcdefghij0123456789"

# Pieces are joined here so that no scanner of this repository takes a made-up secret for a real one.
PLANTED = [
    ("email", "Write to jane.doe@acme-tools.com about the invoice.", "jane.doe@acme-tools.com"),
    ("email", "My address is JOHN_SMITH99@gmail.com, thanks.", "JOHN_SMITH99@gmail.com"),
    ("email", "mailto:info@uni-heidelberg.de?subject=hi", "info@uni-heidelberg.de"),
    ("email", "Contact <o.nguyen+jobs@mail.company.co.uk>.", "o.nguyen+jobs@mail.company.co.uk"),
    ("email", "Check that user@example.com is valid.", "user@example.com"),
    ("email", "(reach me at k@x.org)", "k@x.org"),
    ("email", "Escribe a josé.garcía@correo.es mañana.", "josé.garcía@correo.es"),
    ("email", "邮箱是zhang.wei@163.com。", "zhang.wei@163.com"),
    ("email", '"to": "billing@shop.io"', "billing@shop.io"),
    ("email", "Email me at first.last@sub.domain.museum!", "first.last@sub.domain.museum"),
    ("email", "send it to bob at bob dot com", "bob at bob dot com"),
    ("phone", "Call 212-736-5000 before noon.", "212-736-5000"),
    ("phone", "Call me on (415) 555-2671, please.", "(415) 555-2671"),
    ("phone", "Phone: +49 30 901820", "+49 30 901820"),
    ("phone", "My number is +1 650 253 0000.", "+1 650 253 0000"),
    ("phone", "Reach us at 650.253.0000", "650.253.0000"),
    ("phone", "London office: +44 20 7946 0958", "+44 20 7946 0958"),
    ("phone", "+86 138 0013 8000 is my mobile", "+86 138 0013 8000"),
    ("phone", "tel:+33142685300", "+33142685300"),
    ("phone", "WhatsApp +91 98765 43210 for orders", "+91 98765 43210"),
    ("phone", "toll free 1-800-275-2273", "1-800-275-2273"),
    ("phone", "my number is 6502530000", "6502530000"),
    ("secret", f"My key is AKIA{'IOSFODNN7EXAMPLE'}.", f"AKIA{'IOSFODNN7EXAMPLE'}"),
    ("secret", f"token ghp_{'16C7e42F292c6912E7710c838347Ae178B4a'}", f"ghp_{'16C7e42F292c6912E7710c838347Ae178B4a'}"),
    ("secret", f"sk-{KEY}T3BlbkFJ{KEY} does not work", f"sk-{KEY}T3BlbkFJ{KEY}"),
    ("secret", f"sk-proj-{KEY}T3BlbkFJ{KEY} does not work", f"sk-proj-{KEY}T3BlbkFJ{KEY}"),
    ("secret", f"xoxb-{'123456789012'}-{'1234567890123'}-{KEY}", f"xoxb-{'123456789012'}-{'1234567890123'}-{KEY}"),
    ("secret", f"stripe.api_key = 'sk_live_{KEY}abcd'", f"sk_live_{KEY}abcd"),
    ("secret", "postgres://admin:s3cretpw@db.internal/app", "s3cretpw"),
    ("secret", f"glpat-{KEY} expired", f"glpat-{KEY}"),
    ("secret", f"SG.{KEY}ab.{KEY}{KEY}abc", f"SG.{KEY}ab.{KEY}{KEY}abc"),
    ("secret", f"hook: https://hooks.slack.com/services/T0{KEY[:8]}/B0{KEY[:8]}/{KEY}",
     f"https://hooks.slack.com/services/T0{KEY[:8]}/B0{KEY[:8]}/{KEY}"),
    ("secret", f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{KEY}\n-----END RSA PRIVATE KEY-----\nIs it safe?",
     f"BEGIN RSA PRIVATE KEY-----\nMIIE{KEY}\n-----END RSA PRIVATE KEY"),
    ("secret", f"hf_{KEY}{KEY[:14]} is my hub token", f"hf_{KEY}{KEY[:14]}"),
]  # fmt: skip
OUT_OF_REACH = {"bob at bob dot com", "6502530000", f"hf_{KEY}{KEY[:14]}"}
"""Planted, and not found: words for signs, digits alone, and a token that detect-secrets does not know."""

CLEAN = [
    "Compute 6502530000 + 7.",
    "What is 2,125,551,234 divided by 1,000?",
    "Solve 415 * 555 - 2671 = x for x.",
    "List the numbers 201 202 2030 in order.",
    "The ISBN is 978-3-16-148410-0.",
    "From 2023-10-15 to 2024-01-02, how many days?",
    "Pi is 3.14159265358979.",
    "Ping 192.168.100.1 and 10.0.0.255 on port 8080.",
    "Order no. 4155552671 has not arrived.",
    "5-2-3-4-5-6-7-8-9-0 is a pattern of digits.",
    "Convert 0x7fffffff and 2147483647 to binary.",
    "The matrix product A@B.T fails in numpy; so does x@W.mean(axis=0).",
    "Use @property and @app.route('/users') in Python.",
    "Clone git@github.com:someone/project.git first.",
    "Follow @openscience on social media.",
    "npm install react@18.2.0 and left-pad@1.3.0",
    "What does user@localhost mean in ssh?",
    "Set API_KEY = 'your-api-key-here' in the file.",
    "What makes a good password? Is password = '123456' safe?",
    "The commit is 9fceb02d0ae598e95dc970b74767f19372d61af8.",
    "The UUID is 123e4567-e89b-12d3-a456-426614174000.",
    "sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "Explain what a JSON web token such as eyJ is for.",
    "See https://docs.python.org/3/library/re.html#re.findall",
    "ATGCATGCATGCATGCATGCATGC is a strand of DNA.",
    "The population was 331,449,281 in 2020 and 308,745,538 in 2010.",
    "Simplify (2 + 3) 456 - 7890.",
    "x = [212, 736, 5000]; y = 212 - 736 - 5000",
    "Mix 1/2 cup of sugar at 350-375 degrees for 20-25 minutes.",
    "Temperatures: -12.5, 3.75, 100.0, 451.25",
    "Who won the 1998-1999 season, 4-3 or 3-2?",
]


def test_what_is_planted_is_found_where_it_stands_and_nothing_else_is() -> None:
    """The figures of this table: recall 31 of 34, and no false alarm in 31 clean texts."""
    for kind, text, planted in PLANTED:
        found = [(one.kind, text[one.start : one.end]) for one in find(text, Pii())]
        assert found == ([] if planted in OUT_OF_REACH else [(kind, planted)]), text
    for text in CLEAN:
        assert find(text, Pii()) == [], text


def test_only_what_is_asked_for_is_found() -> None:
    text = "Call 212-736-5000 or write to a@b.org."
    assert [one.kind for one in find(text, Pii())] == ["phone", "email"]
    assert [one.kind for one in find(text, Pii(kinds=("email",)))] == ["email"]
    assert [one.kind for one in find(text, Pii(phone_region=None))] == ["email"]
    assert [one.kind for one in find("Ruf 030/901820 an.", Pii(phone_region="DE"))] == ["phone"]


def test_what_is_beside_or_inside_another_is_replaced_once() -> None:
    table = base_rows(0, 1, instruction=["ftp://me:pa55@files.org or a@b.org,c@d.org; +1 650 253 0000"])
    (row,) = run(of_instruction(action="redact"), table).to_pylist()
    assert row["instruction"] == "ftp://me:[SECRET]@files.org or [EMAIL],[EMAIL]; [PHONE]"
    assert row["pii"] == ["email", "phone", "secret"]


def of_instruction(**settings: Any) -> PiiStep:
    return PiiStep(Pii(**settings), "instruction", (pa.field("instruction", pa.string()),))


TEXTS = ["Why is the sky blue?", "Write to a@b.org.", "Call 212-736-5000 or a@b.org.", "Mail c@d.org."]


@pytest.mark.parametrize("action", ["mark", "reject", "redact"])
def test_each_action_does_what_it_says(action: str) -> None:
    step = of_instruction(action=action)
    assert isinstance(step, RowStep)
    result = run(step, base_rows(0, 4, out=[3], instruction=TEXTS))
    assert result["pii"].to_pylist() == [None, ["email"], ["email", "phone"], None]
    if action == "reject":
        assert result["rejected"].to_pylist() == [None, "pii: email", "pii: email, phone", None]
    if action == "redact":
        assert result["instruction"].to_pylist() == [
            TEXTS[0], "Write to [EMAIL].", "Call [PHONE] or [EMAIL].", TEXTS[3],
        ]  # fmt: skip


def test_every_text_of_an_answer_is_looked_at() -> None:
    rows = base_rows(0, 2, response=["It is a@b.org.", "Yes."], reasoning=["Is it a@b.org?", "Hm."])
    turns = [
        [{"role": "user", "content": "And +49 30 901820?"}, {"role": "assistant", "content": "A number."}],
        [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}],
    ]
    rows = rows.append_column("later_turns", pa.array(turns))
    rows = rows.append_column("later_reasoning", pa.array([["a@b.org"], [None]], pa.list_(pa.string())))
    texts = ("response", "reasoning", "later_turns", "later_reasoning")
    step = PiiStep(Pii(action="redact"), "response", tuple(rows.schema.field(name) for name in texts))
    first, second = run(step, rows).to_pylist()
    assert first["response"] == "It is [EMAIL]."
    assert first["response_length"] == len("It is [EMAIL].")
    assert first["reasoning"] == "Is it [EMAIL]?"
    assert first["later_turns"][0]["content"] == "And [PHONE]?"
    assert first["later_reasoning"] == ["[EMAIL]"]
    assert first["response_pii"] == ["email", "phone"]
    assert second["response_pii"] is None and second["later_turns"] == turns[1]


def test_the_instruction_is_looked_at_before_anything_is_paid_and_the_answer_before_the_filter() -> None:
    names = [planned.name for planned in make_plan(small_recipe(pii={"action": "reject"})).steps]
    assert names[:3] == ["instruct", "clean", "pii"]
    assert names[-3:] == ["extend", "response_pii", "filter"]
    only = small_recipe(pii={"columns": ["instruction"]})
    assert "response_pii" not in [planned.name for planned in make_plan(only).steps]
    assert "pii" not in [planned.name for planned in make_plan(small_recipe()).steps]


def test_the_answer_of_the_base_model_is_looked_at_before_it_is_scored() -> None:
    models = {"generator": "scripted", "judge": "generator", "embedder": "scripted", "reward": "scripted"}
    baseline = {"reward": {"baseline": {"model": "generator"}}}
    plan = make_plan(small_recipe(models=models, pii={"action": "redact"}, **baseline))
    assert [planned.name for planned in plan.steps][-5:] == [
        "extend", "baseline", "response_pii", "reward", "filter"
    ]  # fmt: skip
    step = plan.steps[-3].step
    assert isinstance(step, PiiStep) and step.settings["baselined"]
    rows = base_rows(0, 1, response=["Yes."], reasoning=["Hm."], base_response=["Ask a@b.org."])
    rows = rows.append_column("later_turns", pa.array([[]], step.adds.field("later_turns").type))
    rows = rows.append_column("later_reasoning", pa.array([[]], pa.list_(pa.string())))
    (row,) = run(step, rows).to_pylist()
    assert row["base_response"] == "Ask [EMAIL]." and row["response_pii"] == ["email"]


@pytest.mark.parametrize("action", ["mark", "reject", "redact"])
def test_a_build_with_it_is_whole(action: str, tmp_path: Path) -> None:
    built = build(small_recipe(pii={"action": action}), tmp_path / "run")
    assert verify(built) == []
    table = built.table(["instruction", "response", "pii", "response_pii"], rejected=False)
    assert table.num_rows == sum(1 for _ in built.dataset())
    assert table["instruction"].null_count == 0 and table["response"].null_count == 0


def test_what_was_redacted_is_what_later_steps_are_given() -> None:
    rows = base_rows(0, 4, out=[3], instruction=TEXTS)
    carried = with_columns(rows, run(of_instruction(action="redact"), rows))
    assert carried.column_names == [*rows.column_names, "pii"]
    assert carried["instruction"].to_pylist()[1] == "Write to [EMAIL]."
