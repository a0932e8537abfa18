"""YAML is read within limits, and what is refused is refused quickly, in one line that names the place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from magpie.errors import RecipeError
from magpie.recipe.reading import read_yaml
from magpie.recipe.yaml_text import parse_yaml_text

NINE = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (NINE, "line .* with all aliases written out"),
        (MERGES, "with all aliases written out"),
        ("a: &x [*x]", "inside of what it names"),
        ("a: " + "[" * 500 + "]" * 500, "levels of nesting"),
        ("- " * 5000, "levels of nesting"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: `a` is written twice"),
        ("a: 012", "`012` is not a decimal number"),
        ("a: 1:30", "`1:30` is not a decimal number"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ("a: !!int foo", "cannot be read as int"),
        ("a: !!timestamp foo", "cannot be read as timestamp"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "line 2"),
        ("\ta: 1", "line 1"),
        ("? [a, b]\n: 1", "line 1"),
        ("a: \x00", "is not YAML text"),
        ("a: " + "x" * (5 << 20), "more than 4 MB"),
    ],
)
def test_what_is_refused(text: str, line: str) -> None:
    with pytest.raises(RecipeError, match=line) as raised:
        parse_yaml_text(text, "a.yaml")
    assert "\n" not in str(raised.value)


def test_what_other_libraries_do_to_the_common_loader_changes_nothing() -> None:
    # lm-format-enforcer does this when vLLM is loaded.
    timestamp, text = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:str"
    code = (
        "import yaml; tables = yaml.SafeLoader.yaml_constructors\n"
        f"tables[{timestamp!r}] = tables[{text!r}]\n"
        "from magpie.errors import RecipeError\n"
        "from magpie.recipe.yaml_text import parse_yaml_text\n"
        "try: parse_yaml_text('a: !!timestamp foo', 'a.yaml')\n"
        "except RecipeError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_what_is_read() -> None:
    assert parse_yaml_text("base: &b {x: 1, y: 2}\nmore: {<<: *b, x: 3}", "a") == {
        "base": {"x": 1, "y": 2},
        "more": {"x": 3, "y": 2},
    }
    assert parse_yaml_text("a: 2024-01-01", "a") == {"a": "2024-01-01"}
    assert parse_yaml_text("[0, -7, 1_000, 0x1F, 0.5]", "a") == [0, -7, 1000, 31, 0.5]
    assert parse_yaml_text("", "a") is None


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), tmp_path / "none", tmp_path / ("x" * 300)):
        with pytest.raises(RecipeError, match="cannot read"):
            read_yaml(path)
