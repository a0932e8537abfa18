"""What the terminal would show, as HTML in the cell of a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

from magpie.terminal import new_console

_WIDTH = 120
_PAGE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


def as_html(print_result: Callable[[Any, Console], None], result: Any) -> str:
    """What `print_result` prints, with its colours; texts of models are escaped."""
    console = new_console(file=StringIO(), record=True, width=_WIDTH, force_jupyter=False)
    print_result(result, console)
    return console.export_html(code_format=_PAGE, inline_styles=True)


def notebook_cell() -> Callable[[RenderableType], None] | None:
    """What shows tables in the cell of the notebook that runs this, each in the place of the last; None elsewhere."""
    # Nobody has a notebook who has not imported IPython, and a terminal's IPython has no kernel.
    python = sys.modules.get("IPython")
    shell = None if python is None else python.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    import IPython.display

    shown: Any = IPython.display  # it has no types
    handle: Any = None

    def show(table: RenderableType) -> None:
        nonlocal handle
        page = shown.HTML(as_html(lambda it, console: console.print(it), table))
        if handle is None:
            handle = shown.display(page, display_id=True)
        else:
            handle.update(page)

    return show
