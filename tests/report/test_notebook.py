"""Results as notebooks show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builds import small_recipe

import magpie


def html(result: Any) -> str:
    return str(result._repr_html_())


def test_a_notebook_shows_what_the_command_prints(tmp_path: Path) -> None:
    run = magpie.build(small_recipe(), tmp_path / "run")
    assert "rows out" in html(magpie.status(run)) and html(magpie.status(run)).startswith("<pre")
    assert "rule" in html(magpie.filter(run, "demo"))
    assert "Jaccard" in html(magpie.compare(run, "demo", "strict"))
    assert "nothing was written" in html(magpie.plan(small_recipe()))
    assert "post_query" in html(magpie.doctor("any", n=0, engine="scripted"))


def test_markup_of_the_page_in_a_name_is_text(tmp_path: Path) -> None:
    rules = [{"name": "<script>x</script>", "where": "nosuch > 3", "when_present": True}]
    shown = html(magpie.plan(small_recipe(filter={"rules": rules})))
    assert "<script>" not in shown and "&lt;script&gt;" in shown
