"""What most faults are tried on: a small recipe, and its run as it is without any."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import done, magpie, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "small.yaml")


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done(magpie("build", recipe, "--out", folder))
    return folder
