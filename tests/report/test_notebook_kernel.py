"""A build in a real notebook kernel shows how far it is, in one place of its cell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

jupyter = pytest.importorskip("jupyter_client", reason="no Jupyter here")

CELL = """
import magpie
recipe = dict(name="small", rows=40, models={"generator": {"model": "any", "engine": "scripted"}})
run = magpie.build(recipe, "run")
"""


def said_by(client: Any, code: str) -> list[dict[str, Any]]:
    """The messages of a cell until it is done."""
    messages: list[dict[str, Any]] = []
    client.execute_interactive(code, timeout=120, output_hook=messages.append)
    return messages


def test_a_build_shows_its_progress_in_the_cell(tmp_path: Path) -> None:
    manager = jupyter.KernelManager()
    # This Python's, whatever kernels the machine knows.
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        messages = said_by(client, CELL)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [m["content"] for m in messages if m["msg_type"] == "error"] == []
    shown = [m for m in messages if m["msg_type"] == "display_data"]
    updates = [m["content"] for m in messages if m["msg_type"] == "update_display_data"]
    # One place, and the last table in it is that of the finished build.
    assert len(shown) == 1
    ids = {content["transient"]["display_id"] for content in [shown[0]["content"], *updates]}
    assert len(ids) == 1
    page = updates[-1]["data"]["text/html"]
    assert "40/40" in page and "instruct" in page and "rows kept in" in page
