"""What a build would cost, printed in 80 columns: each figure beside what it stands on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from magpie.report.text import as_text
from magpie.sizing.cards import find_card
from magpie.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from magpie.plan.costs import Costs
    from magpie.plan.licences import Licensed


def print_costs(costs: Costs, console: Console) -> None:
    """Print licences, then how the models lie on the GPUs, then tokens and hours, then the whole."""
    where = "no GPU" if costs.card is None else f"{costs.gpus} x {find_card(costs.card).title}"
    title = f"{costs.recipe}: {counted(costs.rows, 'row')} on {where}"
    console.print(Text(title, style="table.title"))
    print_licences(costs.licences, console)
    _print_fits(costs, console)
    _print_times(costs, console)
    _print_whole(costs, console)


def print_licences(licences: Sequence[Licensed], console: Console) -> None:
    """Print what the licence of each model that writes asks of whoever trains on its texts."""
    for each in licences:
        console.print(Text("licence ", "bold").append_text(as_text(each.text, "default")))


def _print_fits(costs: Costs, console: Console) -> None:
    fitting = [(number, phase) for number, phase in enumerate(costs.phases, 1) if phase.fit is not None]
    if fitting:
        table = Table(title="a GPU holds", title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        table.add_column("model", overflow="fold")
        for heading in ("GPUs", "weights", "KV cache", "slots", "tokens a step", "graphs"):
            table.add_column(heading, justify="right")
        for number, phase in fitting:
            assert phase.fit is not None
            fit = phase.fit
            table.add_row(
                str(number),
                as_text(phase.model or ""),
                str(fit.tensor_parallel),
                _size(fit.weights),
                _size(fit.cache) if fit.cache else "none",
                f"{fit.slots:,}",
                f"{fit.batched_tokens:,}",
                str(len(fit.graph_sizes)),
            )
        console.print(table)
    for number, phase in enumerate(costs.phases, 1):
        if phase.problem:
            console.print(Text(f"{number} ", "bold red").append_text(as_text(phase.problem, "default")))
        elif phase.fit is not None and phase.smallest and phase.smallest < phase.fit.tensor_parallel:
            console.print(f"{number} fits with tensor_parallel {phase.smallest} too", highlight=False)


def _print_times(costs: Costs, console: Console) -> None:
    table = Table(title="and takes", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("steps", overflow="fold")
    for heading in ("rows", "tokens read", "written", "GPU h", "wall h"):
        table.add_column(heading, justify="right")
    for number, phase in enumerate(costs.phases, 1):
        read, written = (
            sum(getattr(step, name) for step in phase.steps) for name in ("tokens_read", "tokens_written")
        )
        table.add_row(
            str(number),
            phase.name,
            _count(phase.steps[0].rows),
            _count(read),
            _count(written),
            _hours(phase.gpu_hours),
            _hours(phase.wall_hours),
        )
    table.add_row(
        "", "together", "", "", "", _hours(costs.gpu_hours or None), _hours(costs.wall_hours or None)
    )
    console.print(table)


def _print_whole(costs: Costs, console: Console) -> None:
    lines = []
    if costs.published is not None:
        lines.append(_published(costs))
    raw, kept = costs.per_thousand(costs.rows), costs.per_thousand(costs.kept)
    if costs.price and raw is not None:
        for_kept = "" if kept is None else f", ${kept:,.2f} for 1,000 kept"
        lines.append(
            f"${costs.dollars:,.0f} at ${costs.price:,.2f} a GPU hour: ${raw:,.3f} for 1,000 raw rows{for_kept}"
        )
    if costs.unknown:
        lines.append(f"time unknown: {', '.join(costs.unknown)}")
    kept_rows = (
        "rows kept: unknown" if costs.kept is None else f"about {counted(round(costs.kept), 'row')} kept"
    )
    lines.append(f"{kept_rows} ({costs.kept_source})")
    lines.append(f"about {_size(costs.disk_bytes)} of disk in {counted(costs.files, 'file')}")
    lines += ["what it stands on:", *(f"- {line}" for line in _grounds(costs))]
    for line in lines:
        console.print(as_text(line))


def _published(costs: Costs) -> str:
    run = costs.published
    assert run is not None
    hours = ", ".join(f"{step} {hours:g} h" for step, hours in run.hours.items())
    text = (
        f"published for {run.rows:,} rows on {run.gpus} x {find_card(run.card).title}: {hours}, "
        f"{run.gpu_hours:,.0f} GPU hours, ${run.price:.2f} for 1,000 rows"
    )
    same = [costs.gpu_hours_of(step) for step in run.hours]
    known = [hours for hours in same if hours is not None]
    if len(known) == len(same):
        ours = sum(known) * run.rows / costs.rows
        text += f"; planned here for these steps and as many rows: {ours:,.1f} GPU hours"
    return text


def _grounds(costs: Costs) -> list[str]:
    sources = dict.fromkeys(phase.shape_source for phase in costs.phases if phase.shape_source)
    grounds = [f"weights and KV cache: {'; '.join(sources)}"] if sources else []
    if costs.card is not None:
        card = find_card(costs.card)
        grounds += [
            f"memory: {_size(card.memory)} a GPU; slots: 80 % of the KV cache, with rows of usual length",
            f"hours: the least that vLLM takes, by a roofline of {card.bandwidth / 1e12:.2f} TB/s and "
            f"{card.flops / 1e12:,.0f} TFLOPS; within 30 % of aiconfigurator 0.12 for Llama 3 on A100 and H100",
        ]
    else:
        grounds.append(
            "hours: this machine has no GPU that is known (--gpu names one), and a CPU has no roofline; "
            "a run made here says them (--like RUN)"
        )
    speeds = dict.fromkeys(phase.speed_source for phase in costs.phases if phase.speed_source)
    grounds += [f"speed: {source}" for source in speeds if source != "roofline"]
    grounds += [costs.rows_source, "left out: loading the models, and steps without one"]
    return grounds


def _hours(hours: float | None) -> str:
    if hours is None:
        return ""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"


def _count(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}" if number else ""


def _size(count: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
