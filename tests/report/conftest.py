"""Builds that are shown, for all the tests of a file."""

from __future__ import annotations

import pytest
from builds import scripted, small_recipe

from magpie.build import build
from magpie.runs.run import Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with rows of every fate."""
    models = scripted(cut_rate=0.1, failure_rate=0.03)
    return build(small_recipe(models=models), tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is not done: it has no step after `clean`."""
    return build(small_recipe(), tmp_path_factory.mktemp("runs") / "half", stop_after="clean")
