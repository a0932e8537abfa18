"""Every number on the page is one that is computed apart here: by DuckDB over the rows, by numpy over the vectors."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import small_recipe
from queried import ask

import magpie
from magpie.drawing.charts import Bars, Grid, Histogram, Lines
from magpie.engines.embedder import scripted_vectors
from magpie.figures.report_figures import ReportFigures, report_figures
from magpie.report.page import overview
from magpie.report.page.figure import PageFigure, dollars, percent
from magpie.report.page.sections import sections
from magpie.runs.public import public_reason
from magpie.text import words

PRICE = 3600.0  # a dollar a second
ROWS = 240
EVERYTHING: dict[str, Any] = {
    "rows": ROWS, "shard_rows": 40,
    "models": {
        "generator": {"model": "scripted", "script": {"repeat_rate": 0.2, "cut_rate": 0.1}},
        "judge": "generator", "other": {"model": "scripted-too"}, "embedder": "scripted", "reward": "scripted",
        "base": "generator",
    },
    "language": {}, "pii": {"action": "mark"}, "tag": {"second_judge": "other"}, "reward": {"baseline": {}},
    "filter": [{"name": "difficulty", "where": "difficulty <> 'very easy'"}],
}  # fmt: skip


def told(texts: list[str]) -> list[str]:
    """Languages by a rule of this test: lingua takes a gigabyte, and has tests of its own."""
    return ["fr" if "a" in text[:12] else "en" for text in texts]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> ReportFigures:
    """A run that has everything, and another set beside it."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("magpie.steps.language._load", lambda: None)
        patch.setattr("magpie.steps.language.detect", lambda texts: iter(["en"] * len(texts)))
        patch.setattr("magpie.models.languages.detect", lambda texts: iter(told(texts)))
        patch.setattr("magpie.figures.verbs.find_spec", lambda name: None)
        patch.setattr("magpie.figures.coverage_map.find_spec", lambda name: None)
        first = magpie.build(small_recipe(rows=40, shard_rows=40), folder / "first", stop_after="clean")
        texts = [row["instruction"] for row in first.table().to_pylist() if row["instruction"]]
        earlier = lines(texts[:3], folder / "earlier.jsonl")
        exam = lines(["so plan a garden slowly now", "grow tomatoes"], folder / "exam.jsonl")
        recipe = small_recipe(
            **EVERYTHING, decontaminate={"files": [str(exam)], "ngram": 3}, dedup={"against": [str(earlier)]}
        )
        run = magpie.build(recipe, folder / "all")
        other = lines([*texts[3:20], "nothing like these at all"], folder / "other.jsonl")
        return report_figures(run, compare=[str(other)], price=PRICE)


def lines(texts: list[str], place: Path) -> Path:
    place.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in texts), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def rows(figures: ReportFigures) -> pa.Table:
    assert figures.rows.run is not None
    return figures.rows.run.table()


@pytest.fixture(scope="module")
def page(figures: ReportFigures) -> dict[str, PageFigure]:
    shown = [figure for section in sections(figures) for figure in section.figures]
    return {figure.name: figure for figure in [overview.funnel(figures), *shown]}


def kept(rows: pa.Table, column: str) -> list[Any]:
    return [value for (value,) in ask(rows, f"SELECT {column} FROM t WHERE rejected IS NULL ORDER BY index")]


def cells(figure: PageFigure) -> dict[str, tuple[str, ...]]:
    assert figure.table is not None
    return {row[0]: row[1:] for row in figure.table.rows}


def vectors(figures: ReportFigures) -> Any:
    assert figures.sample is not None
    held = figures.sample.vectors.astype(np.float64)
    return held / np.linalg.norm(held, axis=1, keepdims=True)


def test_the_first_screen(figures: ReportFigures, rows: pa.Table) -> None:
    facts = dict(overview.facts(figures))
    ((count, tokens, turns),) = ask(
        rows,
        "SELECT count(*), sum(instruct_tokens) + sum(response_tokens), avg(turns) FROM t WHERE rejected IS NULL",
    )
    assert facts["Rows kept"] == f"{count:,} of {ROWS}"
    assert facts["Tokens in kept first turns"] == f"{int(tokens):,}"
    assert facts["Turns a conversation"] == f"{turns:.1f} on average"
    assert figures.work is not None and figures.work.seconds
    hours = figures.work.seconds / 3600
    assert figures.work.cost == pytest.approx(PRICE * hours)
    assert facts["Cost"].endswith("at $3,600 an hour of the machine")


def test_the_funnel_and_what_each_reason_put_out(page: dict[str, PageFigure], rows: pa.Table) -> None:
    counted = dict(ask(rows, "SELECT rejected, count(*) FROM t WHERE rejected IS NOT NULL GROUP BY 1"))
    shown = {name: (count, share) for name, (count, share) in cells(page["funnel"]).items()}
    named = {
        reason if "earlier" not in reason else "dedup: repeat of earlier.jsonl": n
        for reason, n in counted.items()
    }
    assert {"decontaminate: words of an evaluation set", "dedup: repeat of earlier.jsonl"} <= named.keys()
    assert shown == {reason: (f"{n:,}", percent(n / ROWS)) for reason, n in named.items()}
    ((answered, cut),) = ask(
        rows,
        "SELECT count(*) FILTER (WHERE response_finish_reason IN ('stop', 'length')), "
        "count(*) FILTER (WHERE response_finish_reason = 'length') FROM t",
    )
    assert cut and f" Of {answered} responses {cut} were cut at the limit." in page["funnel"].says
    chart = page["funnel"].chart
    assert isinstance(chart, Bars)
    left = [count for _, count in chart.bars]
    assert [before - after for before, after in pairwise(left)] == [named[name] for name, _ in chart.bars[1:]]
    assert (left[0], left[-1]) == (ROWS, ROWS - sum(named.values()))
    of_reason = {
        reason: {" ".join((text or raw or "").split())[:40] for text, raw in ask(
            rows, f"SELECT instruction, raw_instruction FROM t WHERE rejected = '{reason}'")}
        for reason in counted
    }  # fmt: skip
    for name, texts in page["funnel"].examples:
        own = next(of_reason[reason] for reason in counted if name in {reason, public_reason(reason)})
        assert texts and {text[:40] for text in texts if text != "(empty)"} <= own


def test_topics_and_openings(figures: ReportFigures, page: dict[str, PageFigure], rows: pa.Table) -> None:
    assert figures.topics is not None and figures.sample is not None
    sizes = sorted(np.bincount(figures.topics.labels).tolist(), reverse=True)
    assert sum(sizes) == len(figures.sample.positions) == len(kept(rows, "instruction"))
    chart = page["topics"].chart
    assert isinstance(chart, Bars) and [count for _, count in chart.bars] == sizes
    shares = np.array(sizes) / sum(sizes)
    bits = float(-(shares * np.log2(shares)).sum())
    assert f"holds {percent(shares[0])} of the rows" in page["topics"].says
    assert f"({bits:.2f} bits, {len(sizes)} topics)" in page["topics"].says
    assert f"as over {2**bits:.1f} equal topics" in page["topics"].says
    counted = Counter(" ".join(words(text)[:6]) for text in kept(rows, "instruction"))
    for opening, (count, share) in cells(page["openings"]).items():
        assert (count, share) == (f"{counted[opening]:,}", percent(counted[opening] / counted.total()))
    assert page["openings"].says.startswith(percent(max(counted.values()) / counted.total()))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("categories", "task_category"), ("difficulty", "difficulty"), ("quality", "input_quality"),
        ("languages", "language"), ("ends", "response_finish_reason"), ("instruction-ends", "instruct_finish_reason"),
    ],
)  # fmt: skip
def test_what_is_counted(page: dict[str, PageFigure], rows: pa.Table, name: str, column: str) -> None:
    every = dict(ask(rows, f"SELECT {column}, count(*) FROM t GROUP BY 1"))
    inside = dict(ask(rows, f"SELECT {column}, count(*) FROM t WHERE rejected IS NULL GROUP BY 1"))
    chart = page[name].chart
    assert isinstance(chart, Bars)
    shown = {
        label: (count, whole)
        for label, count, whole in zip(*zip(*chart.bars, strict=True), chart.behind, strict=True)
    }
    assert shown == {value or "no answer": (inside.get(value, 0), count) for value, count in every.items()}
    answered = {value: count for value, count in inside.items() if value is not None}
    shares = np.array(list(answered.values())) / sum(answered.values())
    if name in {"ends", "instruction-ends"}:
        assert page[name].says.startswith(percent(answered.get("length", 0) / sum(answered.values())))
    else:
        assert f"spread by {abs(float((shares * np.log2(shares)).sum())):.2f} bits" in page[name].says


def test_sampling_settings(page: dict[str, PageFigure], rows: pa.Table) -> None:
    counted = ask(
        rows,
        "SELECT temperature, top_p, count(*) FILTER (rejected IS NULL), count(*) FROM t GROUP BY 1, 2 ORDER BY 1, 2",
    )
    chart = page["sampling"].chart
    assert isinstance(chart, Bars)
    assert [(count, whole) for (_, count), whole in zip(chart.bars, chart.behind, strict=True)] == [
        (inside, every) for *_, inside, every in counted
    ]


def test_languages_of_both_sides(page: dict[str, PageFigure], rows: pa.Table) -> None:
    answers = [text for text in kept(rows, "response") if text is not None and len(text) >= 20]
    pairs = Counter(("en", language) for language in told(answers))
    chart = page["mismatch"].chart
    assert isinstance(chart, Grid) and dict(chart.cells) == dict(pairs)
    assert page["mismatch"].says.startswith(percent(pairs["en", "fr"] / pairs.total()))


def test_lengths_and_who_is_over_a_limit(page: dict[str, PageFigure], rows: pa.Table) -> None:
    for name, columns in {
        "characters": ("length(instruction)", "length(response)"), "tokens": ("instruct_tokens", "response_tokens"),
    }.items():  # fmt: skip
        chart = page[name].chart
        assert isinstance(chart, Histogram)
        for series, column in zip(("instruction", "response"), columns, strict=True):
            held = [value for value in kept(rows, column) if value is not None]
            assert list(chart.series[series]) == held
            assert sum(chart.counted()[1][series]) == len(held)
    for series, (median, most, *over) in cells(page["tokens"]).items():
        held = np.array(
            [
                n
                for n in kept(rows, f"{'instruct' if series[0] == 'i' else 'response'}_tokens")
                if n is not None
            ]
        )
        assert (median, most) == (f"{np.median(held):,.0f}", f"{held.max():,}")
        assert over == [percent(float((held > limit).mean())) for limit in (2048, 4096, 8192)]


def test_tokens_of_conversations_are_those_of_all_their_turns(
    figures: ReportFigures, page: dict[str, PageFigure]
) -> None:
    """The scripted engine's tokens are bytes: what is left is the template's, the same for as many turns."""
    assert figures.tokens is not None and figures.rows.run is not None
    talks = [[turn["content"] for turn in row["messages"]] for row in figures.rows.run.dataset().to_list()]
    left = {
        (len(talk), int(count) - sum(len(text.encode()) for text in talk))
        for talk, count in zip(talks, figures.tokens.values, strict=True)
    }
    assert len(left) == len({turns for turns, _ in left}) > 0
    over = percent(float((figures.tokens.values > 2048).mean()))
    assert f"{over} over 2,048" in page["conversation-tokens"].says


def test_distances_within_and_to_another_set(
    figures: ReportFigures, page: dict[str, PageFigure], rows: pa.Table
) -> None:
    held = [value for value in kept(rows, "min_neighbor_distance") if value is not None]
    assert f"other row is {np.mean(held):.3f}" in page["distances"].says
    (other,) = figures.others
    least = np.maximum(2 - 2 * (vectors(figures) @ other.vectors.astype(np.float64).T).max(axis=1), 0)
    shown = cells(page["distances"])[other.name]
    assert shown == (f"{len(least):,}", f"{least.mean():.3f}", percent(float((least < 0.05).mean())))
    found = int((least < 0.05).sum())
    assert cells(page["checked"])[other.name][1].startswith(f"{found:,} of {len(least):,} sampled")


def plain_novel_sum(held: Any, reference: Any) -> float:
    """By the paper: the mean over rows of their ranked, weighted cosine distances, by the density around each."""
    novelty = []
    for vector in held:
        near = np.sort(((reference - vector) ** 2).sum(axis=1))[1:11]
        ranked = np.sort(1 - held @ vector)
        ranked[0] = 0
        weights = 1 / np.arange(1, len(held) + 1)
        novelty.append((1 / (near.mean() + 1e-9)) ** 0.5 * (ranked * weights).sum() / weights.sum())
    return float(np.mean(novelty))


def test_novel_sum_and_what_goes_with_it(figures: ReportFigures, page: dict[str, PageFigure]) -> None:
    drawn, rng = 18, np.random.default_rng(42)  # as many as the smaller set has
    sets = [vectors(figures), figures.others[0].vectors.astype(np.float64)]
    held = [each[rng.permutation(len(each))[:drawn]] for each in sets]
    held = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in held]
    reference = np.unique(np.concatenate(held).astype(np.float32), axis=0).astype(np.float64)
    for part, (name, shown) in zip(held, cells(page["diversity"]).items(), strict=True):
        table = np.maximum(2 - 2 * part @ part.T, 0)
        np.fill_diagonal(table, np.inf)
        assert shown[0] == str(drawn)
        assert float(shown[1].split()[0]) == pytest.approx(plain_novel_sum(part, reference), rel=2e-3), name
        assert float(shown[2].split()[0]) == pytest.approx(table.min(axis=1).mean(), abs=2e-3)
        assert shown[3] == percent(float((table.min(axis=1) < 0.05).mean()))


def test_saturation_is_that_of_the_status(figures: ReportFigures, page: dict[str, PageFigure]) -> None:
    assert figures.rows.run is not None
    curve = magpie.status(figures.rows.run).saturation
    chart = page["saturation"].chart
    assert curve is not None and isinstance(chart, Lines)
    ends = np.cumsum([block.rows for block in curve.curve])
    assert chart.series["new"] == [
        (float(end), 100 * block.new / block.rows) for end, block in zip(ends, curve.curve, strict=True)
    ]
    assert page["saturation"].says.startswith(f"{curve.next.new:,.0f} of the next {curve.next.rows:,} rows")


def test_rewards_and_personal_data(page: dict[str, PageFigure], rows: pa.Table) -> None:
    rewards = [value for value in kept(rows, "instruct_reward") if value is not None]
    assert f"{np.mean(rewards):.2f} on average" in page["rewards"].says
    better = [value > 0 for value in kept(rows, "reward_difference") if value is not None]
    assert page["reward-difference"].says.startswith(percent(sum(better) / len(better)))
    for column in ("pii", "response_pii"):
        hits = [set(kinds) for (kinds,) in ask(rows, f"SELECT {column} FROM t") if kinds]
        figure = page.get(f"personal-{column}".replace("_", "-"))
        if hits:
            assert figure is not None and isinstance(figure.chart, Bars)
            every = Counter(kind for kinds in hits for kind in kinds)
            inside = Counter(kind for kinds in kept(rows, column) for kind in set(kinds or ()))
            assert dict(figure.chart.bars) == {kind: inside[kind] for kind in every}
            assert f"In {len(hits):,} of {ROWS} rows" in figure.says


def test_safety_and_distances_of_a_dataset_without_a_run(tmp_path: Path) -> None:
    verdicts = ["safe"] * 6 + ["unsafe", None]
    texts = [f"plan number {at} of the garden" for at in range(7)] + ["plan number 0 of the garden"]
    pq.write_table(pa.table({"instruction": texts, "llama_guard": verdicts}), tmp_path / "rows.parquet")
    found = report_figures(tmp_path / "rows.parquet", embedder="scripted", quick=True)
    page = {figure.name: figure for section in sections(found) for figure in section.figures}
    assert page["safety"].says.startswith("86 % of the kept rows")
    held = scripted_vectors(texts).astype(np.float64)
    held /= np.linalg.norm(held, axis=1, keepdims=True)
    table = ((held[:, None] - held[None]) ** 2).sum(axis=2)
    np.fill_diagonal(table, np.inf)
    assert f"of 8 sampled rows is {table.min(axis=1).mean():.3f}." in page["distances"].says
    assert cells(page["diversity"])["rows"][3] == percent(float((table.min(axis=1) < 0.05).mean()))


def test_how_well_judges_agree(page: dict[str, PageFigure], rows: pa.Table) -> None:
    pairs = Counter(
        ask(
            rows,
            "SELECT difficulty, second_difficulty FROM t "
            "WHERE difficulty IS NOT NULL AND second_difficulty IS NOT NULL",
        )
    )
    chart = page["agreement-difficulty"].chart
    assert isinstance(chart, Grid)
    assert {pair: count for pair, count in chart.cells.items() if count} == dict(pairs)
    same = sum(count for (one, other), count in pairs.items() if one == other) / pairs.total()
    assert f"{same:.0%}".rstrip("%") in page["agreement-difficulty"].says


def test_what_it_took(figures: ReportFigures, page: dict[str, PageFigure], rows: pa.Table) -> None:
    ((instructions, responses),) = ask(rows, "SELECT sum(instruct_tokens), sum(response_tokens) FROM t")
    taken = cells(page["speed"])
    by_step = {name: int(tokens.replace(",", "")) for name, (_, tokens, _) in taken.items()}
    assert by_step["instruct"] == instructions and by_step["respond"] == responses
    work = figures.work
    assert work is not None and work.seconds is not None
    assert sum(each.seconds for each in work.spent) == pytest.approx(work.seconds, abs=0.1)
    spent = cells(page["spent"])
    assert sum(float(hours) for hours, *_ in spent.values()) == pytest.approx(work.seconds / 3600, abs=0.01)
    assert page["spent"].says.endswith(f"which cost {dollars(work.seconds)}.")


def test_what_was_checked_and_how_much_was_found(page: dict[str, PageFigure], rows: pa.Table) -> None:
    ((words_of, repeats),) = ask(
        rows,
        "SELECT count(*) FILTER (contaminated_by LIKE '%exam.jsonl:%' OR contaminated_turn LIKE '%exam.jsonl:%'), "
        "count(*) FILTER (rejected LIKE 'dedup: repeat of %earlier.jsonl') FROM t",
    )
    shown = cells(page["checked"])
    assert words_of and repeats
    assert shown["exam.jsonl"] == ("3 words in a row", str(words_of))
    assert shown["earlier.jsonl"] == ("instructions nearer than 0.05", str(repeats))


def test_no_place_of_this_machine_is_on_the_page(figures: ReportFigures) -> None:
    from magpie.report.page.page import page as html_of

    assert figures.rows.run is not None
    assert str(figures.rows.run.folder.parent) not in html_of(figures)
