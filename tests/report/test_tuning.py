"""What tune found, printed."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from samples import recipe_for, scripted

from magpie.doctor.tune import Tuning, tune
from magpie.report.tuning import print_tuning


def printed(tuning: Tuning) -> str:
    screen = StringIO()
    print_tuning(tuning, Console(file=screen, width=160, color_system=None))
    return screen.getvalue()


def test_every_figure_and_the_mix_are_printed() -> None:
    model = scripted(repeat_rate=0.2, cut_rate=0.1)
    tuning = tune(model, recipe=recipe_for(model), n=24, temperatures=(0.7, 1, 1.3), top_ps=(1, 0.9))
    text = printed(tuning)
    assert tuning.mix in text and text.count("●") == len(tuning.best) + 1
    for cell in tuning.cells:
        assert f"{cell.quality.value:.2f}" in text and f"± {cell.quality.error:.2f}" in text
    assert tuning.notes and all(note.split()[0] in text for note in tuning.notes)


def test_nothing_valid_is_a_table_too() -> None:
    failing = scripted(failure_rate=1)
    tuning = tune(failing, recipe=recipe_for(failing), n=4, temperatures=(1, 2), top_ps=(1,))
    assert printed(tuning).count("●") == 3
