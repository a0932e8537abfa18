"""Cards: the Hub's own type and `datasets` read the front matter, and hostile text stays text."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builds import small_recipe
from typed import typed

import magpie
from magpie.data.dataset import DatasetFiles
from magpie.errors import RecipeError, RunError
from magpie.figures.report_rows import report_rows
from magpie.figures.topics import topics
from magpie.figures.vectors import sampled
from magpie.publish.card.making import Card, make_card
from magpie.publish.card.terms import parse_licence
from magpie.publish.source import open_source
from magpie.recipe import Filter
from magpie.runs.run import Run
from magpie.runs.verify import verify
from magpie.storage import open_storage

PAIRS: dict[str, Any] = {
    "models": {"generator": "scripted", "embedder": "scripted", "reward": "scripted"},
    "tag": None, "respond": None, "extend": None, "prefer": {"responses": 2},
    "filter": [{"name": "all", "where": "true"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = small_recipe(description="A <b>small</b> recipe.", pii={"action": "mark"})
    return magpie.build(recipe, out=tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return magpie.build(small_recipe(**PAIRS), out=tmp_path_factory.mktemp("runs") / "pairs")


@pytest.fixture(scope="module")
def card(run: Run) -> Card:
    return make_card(open_source(run), what="both", license="mit")


def front(text: str) -> dict[str, Any]:
    from huggingface_hub import DatasetCard

    data: dict[str, Any] = DatasetCard(text).data.to_dict()
    return data


def test_the_front_matter_says_what_the_hub_lists(card: Card, run: Run) -> None:
    data = front(card.text)
    assert data["license"] == "mit"
    assert data["size_categories"] == ["n<1K"]
    assert data["task_categories"] == ["text-generation"]
    assert {"synthetic", "magpie"} <= set(data["tags"])
    assert [config["config_name"] for config in data["configs"]] == ["default", "raw"]
    kept, every = data["dataset_info"]
    assert kept["splits"][0]["num_examples"] == run.dataset().num_rows
    assert every["splits"][0]["num_examples"] == 96
    assert card.text.count("\nlicense:") == 1  # a key written twice is an error on the Hub


def test_datasets_reads_configurations_features_and_sizes(
    card: Card, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    folder = tmp_path / "repository"
    shutil.copytree(run.folder / "dataset", folder)
    shutil.copytree(run.folder / "raw", folder / "raw")
    (folder / "README.md").write_text(card.text, encoding="utf-8")
    for streaming in (False, True):
        rows = datasets.load_dataset(
            str(folder), split="train", streaming=streaming, cache_dir=str(tmp_path / "c")
        )
        every = datasets.load_dataset(
            str(folder), "raw", split="train", streaming=streaming, cache_dir=str(tmp_path / "c")
        )
        assert rows.features == datasets.Features.from_arrow_schema(open_source(run).kept.schema)
        assert [row["id"] for row in rows] == run.dataset()["id"]
        reasons = [row["rejected_reason"] for row in every]
        assert len(reasons) == 96
        assert reasons.count(None) == len(run.dataset())


def test_pairs_have_a_configuration_of_their_own(pairs: Run, tmp_path: Path) -> None:
    import datasets

    place = magpie.card(pairs, license="mit")
    assert place == pairs.folder / "dataset" / "README.md"
    assert verify(pairs) == []
    shown = front(place.read_text(encoding="utf-8"))
    assert {"dpo", "preference"} <= set(shown["tags"])
    folder = str(place.parent)
    default = datasets.load_dataset(folder, split="train", cache_dir=str(tmp_path))
    chosen = datasets.load_dataset(folder, "pairs", split="train", cache_dir=str(tmp_path))
    assert "messages" in default.column_names
    assert "chosen" not in default.column_names
    assert {"prompt", "chosen", "rejected"} <= set(chosen.column_names)
    assert "messages" not in chosen.column_names


def test_figures_are_there_for_light_and_dark_pages(card: Card) -> None:
    names = {name.rpartition("-")[0] for name in card.figures}
    assert names == {
        f"figures/{name}" for name in ("funnel", "categories", "quality", "difficulty", "lengths")
    }
    for name, data in card.figures.items():
        assert data.startswith(b"\x89PNG")
        assert name in card.text


def test_the_same_dataset_has_the_same_card(card: Card, run: Run) -> None:
    again = make_card(open_source(run), what="both", license="mit")
    assert (again.text, dict(again.figures)) == (card.text, dict(card.figures))


def test_the_body_says_what_can_be_known(card: Card, run: Run) -> None:
    from magpie.figures.status import status

    for step in status(run).steps:
        assert f"| {step.name} | {step.rows_in:,} | {step.rows_out:,} |" in card.text
    for rule in ("quality", "long enough", "medium or harder"):
        assert f"\n| {rule} | " in card.text
    file = run.folder / run.dataset_files.names()[0]
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card.text
    assert "A &lt;b&gt;small" not in card.text  # it is escaped for Markdown, too
    assert "A &#60;b&#62;small&#60;/b&#62; recipe." in card.text
    assert "name: small" in card.text
    assert card.text.count("<details") == card.text.count("</details>")
    assert "No model wrote these texts" in card.text


HOSTILE = [
    "```\n</details><script>alert(1)</script>\n```` ``` [x](javascript:alert(1))",
    "---\nlicense: mit\n---\n# A heading\n<img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %} ${jndi} @everyone https://evil.example www.evil.example",
    "\x1b[2J\u202egnp.exe \ud7ff\r\r\n~~~~~\n    code\n| a | b |",
    "`" * 50 + "\n" + "`" * 51,
]


def hostile_dataset(folder: Path) -> Path:
    messages = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": text}] for text in HOSTILE
    ]
    table = pa.table(
        {
            "id": [f"<b>`row|{at}`</b>" for at in range(len(HOSTILE))],
            "messages": messages,
            "task_category": HOSTILE,
            "generator": ["<script>alert(2)</script>"] * len(HOSTILE),
        }
    )
    DatasetFiles(open_storage(folder)).write(iter([table]), len(HOSTILE), name="x", made_from="y")
    return folder


def test_text_of_a_model_is_never_markup(tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    card = make_card(open_source(hostile_dataset(tmp_path / "set")), license="mit", with_figures=False)
    body = card.text.split("\n---\n", 1)[1]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    markup = [
        each.content
        for token in tokens
        for each in (token, *(token.children or ()))
        if each.type in {"html_block", "html_inline"}
    ]
    allowed = tuple(
        f"<{name}"
        for tag in ("details", "summary", "picture", "source", "img alt", "code")
        for name in (tag, f"/{tag}")
    )
    markup = [html for html in markup if not html.startswith("<!-- card by magpie -->")]
    for html in markup:
        assert html.strip().startswith(allowed)
        assert "script" not in html
        assert "onerror" not in html
    links = [
        dict(each.attrs)["href"]
        for token in tokens
        for each in token.children or ()
        if each.type == "link_open"
    ]
    assert all("javascript" not in link and "evil" not in link for link in links)
    shown = [token.content for token in tokens if token.type == "fence"]
    assert any("<script>alert(1)</script>" in text for text in shown)  # as text, in a block of code
    headings = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert "A heading" not in headings
    assert "49" not in {text.strip() for text in shown}
    assert "\x1b" not in card.text
    assert "\u202e" not in card.text


def test_a_licence_is_never_invented(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "messages": [[{"role": "user", "content": "hello"}]]})
    DatasetFiles(open_storage(tmp_path)).write(iter([table]), 1, name="x", made_from="y")
    card = make_card(open_source(tmp_path), with_figures=False)
    assert card.terms.keys == ()
    assert "license" not in front(card.text)
    assert "The licence of this dataset is not known." in card.text


def test_licences_of_rows_that_were_brought_together(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b"],
            "messages": [[{"role": "user", "content": "hello"}]] * 2,
            "generator": ["meta-llama/Meta-Llama-3-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct"],
        }
    )
    DatasetFiles(open_storage(tmp_path)).write(iter([table]), 2, name="x", made_from="y")
    card = make_card(open_source(tmp_path), with_figures=False)
    assert front(card.text)["license"] == ["apache-2.0", "llama3"]
    assert "Data for training anything but Llama 3 and models derived from it" in card.text


@pytest.mark.parametrize(
    ("model", "expected", "says"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", {"license": "llama3"}, "Outputs may only improve Llama 3"),
        ("meta-llama/Llama-3.1-8B-Instruct", {"license": "llama3.1"}, "begins with “Llama”"),
        ("google/gemma-3-4b-it", {"license": "gemma"}, "Google claims no rights in outputs"),
        (
            "Qwen/Qwen2.5-72B-Instruct",
            {
                "license": "other",
                "license_name": "qwen",
                "license_link": "https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE",
            },
            "Built with Qwen",
        ),
        ("somebody/unknown-7b", {}, "magpie knows no licence of somebody/unknown-7b"),
    ],
)
def test_what_the_generators_licence_asks(
    tmp_path: Path, model: str, expected: dict[str, str], says: str
) -> None:
    recipe = small_recipe(
        rows=16, tag=None, extend=None, filter=None, models={"generator": model, "embedder": "scripted"}
    )
    run = magpie.build(recipe, out=tmp_path / "run")
    text = make_card(open_source(run), with_figures=False).text
    assert {key: value for key, value in front(text).items() if key.startswith("license")} == expected
    assert says in text.replace("&#34;", '"')


def test_topics_and_the_map_of_a_run_are_in_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # t-SNE takes seconds, and has tests of its own.
    monkeypatch.setattr("magpie.figures.coverage_map.find_spec", lambda name: None)
    run = magpie.build(small_recipe(rows=160, extend=None, filter=None), out=tmp_path / "run")
    card = make_card(open_source(run), license="mit")
    assert {"figures/topics-light.png", "figures/map-dark.png"} <= card.figures.keys()
    found = topics(sampled(report_rows(run)))
    assert found is not None
    assert f"The largest topic, {found.largest.name}, holds " in card.text
    assert f"of {found.rows} rows; they are spread as over {2**found.entropy:.1f} equal topics" in card.text
    assert "figures/map-light.png" in card.text
    kept = magpie.filter(run, "strict", tmp_path / "kept")
    assert kept is not None
    assert "largest topic" not in make_card(open_source(tmp_path / "kept"), license="mit").text


def test_no_place_of_this_machine_is_in_a_card_or_a_manifest(tmp_path: Path) -> None:
    from magpie.publish.hub.publishing import Publisher, Wish

    exam = tmp_path / "secret-project" / "exam.txt"
    exam.parent.mkdir()
    exam.write_text("What is the answer to everything?\n")
    first = magpie.build(small_recipe(rows=16, shard_rows=16), out=tmp_path / "first", stop_after="clean")
    earlier = exam.parent / "earlier.txt"
    earlier.write_text(next(row["instruction"] for row in first.table().to_pylist() if row["instruction"]))
    recipe = small_recipe(
        rows=16, tag=None, extend=None, filter=None, decontaminate={"files": [str(exam)]},
        dedup={"against": [str(earlier)]},
    )  # fmt: skip
    run = magpie.build(recipe, out=tmp_path / "run")
    assert [row["rejected"] for row in run.table().to_pylist() if "earlier.txt" in (row["rejected"] or "")]
    parcel = Publisher(open_source(run), Wish("me/small", license="mit")).parcel()
    for item in parcel.items:
        data = item.content if isinstance(item.content, bytes) else item.content.read_bytes()
        assert str(tmp_path).encode() not in data, item.path
        assert b"secret-project" not in data, item.path
    assert "exam.txt" in parcel.card.text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cc-by-4.0", (("cc-by-4.0",), None, None)),
        ("our-terms=https://example.org/terms", (("other",), "our-terms", "https://example.org/terms")),
        ("tongyi-qianwen", (("other",), "tongyi-qianwen", "https://huggingface.co/Qwen/Qwen2-72B-Instruct/blob/main/LICENSE")),
    ],
)  # fmt: skip
def test_licences_that_a_person_gives(given: str, expected: tuple[Any, ...]) -> None:
    assert parse_licence(given) == expected


@pytest.mark.parametrize("given", ["", "other", "unknown", "MIT License", "x=", "x=ftp://a", "Apache"])
def test_licences_that_are_none(given: str) -> None:
    with pytest.raises(RecipeError, match="give a key that the Hub knows"):
        parse_licence(given)


def test_what_is_no_dataset_has_no_card(tmp_path: Path, run: Run) -> None:
    with pytest.raises(RunError, match="no dataset"):
        magpie.card(tmp_path)
    with pytest.raises(RunError, match="is a folder; name a file"):
        magpie.card(run, tmp_path)
    unfinished = magpie.build(small_recipe(rows=16), out=tmp_path / "run", stop_after="instruct")
    with pytest.raises(RunError, match="holds no dataset yet"):
        magpie.card(unfinished)
    kept = magpie.filter(run, "strict", tmp_path / "kept")
    assert kept is not None
    with pytest.raises(RunError, match="holds kept rows only; give the folder of its run"):
        open_source(tmp_path / "kept").parts("raw")


def test_the_commands(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "a" / "CARD.md"
    assert typed("card", run.folder, "--out", out).strip() == str(out)
    assert (tmp_path / "a" / "figures" / "funnel-dark.png").is_file()
    printed = typed("push", run.folder, "me/small", "--dry-run", "--what", "both", "--license", "mit")
    assert printed.startswith("---\n")
    assert "raw/train-00000.parquet" in printed
    assert "nothing was sent" in printed


def test_another_licence_without_a_name_is_that_of_the_generator(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a"],
            "messages": [[{"role": "user", "content": "hello"}]],
            "license": ["other"],
            "generator": ["Qwen/Qwen2.5-72B-Instruct"],
        }
    )
    DatasetFiles(open_storage(tmp_path)).write(iter([table]), 1, name="x", made_from="y")
    shown = front(make_card(open_source(tmp_path), with_figures=False).text)
    assert (shown["license"], shown["license_name"]) == ("other", "qwen")


@pytest.mark.parametrize("key", ["mit", "cc-by-4.0"])
def test_rows_that_carry_a_licence_of_their_own(tmp_path: Path, key: str) -> None:
    table = pa.table(
        {
            "id": ["a"],
            "messages": [
                [{"role": role, "content": "hello"} for role in ("system", "user", "assistant", "user")]
            ],
            "license": [key],
        }
    )
    about = {
        "imported": {
            "name": "/data/somebody/set",
            "files": [{"file": "set.jsonl", "rows": 3}],
            "rows": 1,
            "left_out": [{"reason": "no user", "rows": 2}],
        }
    }
    DatasetFiles(open_storage(tmp_path)).write(iter([table]), 1, name="x", made_from="y", about=about)
    text = make_card(open_source(tmp_path), with_figures=False).text
    assert front(text)["license"] == key
    assert "imported from set: set.jsonl (3 rows). Left out: no user: 2." in text
    assert "somebody" not in text
    assert "Turns a conversation: 2 in 1 row." in text


def test_a_filtered_folder_says_which_filters_chose_its_rows_and_what_each_rule_lost(
    tmp_path: Path, run: Run
) -> None:
    every = [{"name": "is there", "where": "true"}]
    magpie.filter(run, Filter(name="first", rules=every), tmp_path / "first")
    short = [{"name": "short & sweet", "where": "length(instruction) < 60"}]
    kept = magpie.filter(tmp_path / "first", Filter(name="second", rules=short), tmp_path / "second")
    text = make_card(open_source(tmp_path / "second"), with_figures=False).text
    assert "the filter <code>first</code>, then <code>second</code> chose the rows" in " ".join(text.split())
    (line,) = kept.lines
    assert f"| short &#38; sweet | {line.rows_in} | {line.lost} | {line.left} |" in text
    assert "how many each rule lost is not recorded" not in text
