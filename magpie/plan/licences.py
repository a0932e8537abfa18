"""What the licences of a plan's writers ask of whoever trains on the dataset; said before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from magpie.models.licences import licence_of
from magpie.plan.phases import Plan


@dataclass(frozen=True, slots=True)
class Licensed:
    """A model that writes text of the dataset, and what its licence asks; None where that is not known."""

    model: str
    licence: str | None
    asks: str | None
    link: str | None
    free: bool | None

    @property
    def text(self) -> str:
        """What a person should know of it, in a line."""
        if self.licence is None:
            return (
                f"of {self.model}: not known to magpie; read it before you train on the dataset or publish it"
            )
        return f"of {self.model}: {self.licence}. {self.asks}"


def licences_of(plan: Plan) -> tuple[Licensed, ...]:
    """One for each model whose texts the dataset holds: those that instruct and answer, not those that judge."""
    written: dict[str, None] = {}
    for run_step in plan.steps:
        step = run_step.step
        use = step.uses
        if use is None or use.purpose != "write" or (use.structured and not step.answers):
            continue
        # In plain text a base model may only answer to be compared with: a step says whether its texts count.
        counts = step.answers or step.credited_as is not None
        if use.speech == "chat" or (use.speech == "plain" and counts):
            written[use.model.model] = None
    found = [(name, licence_of(name)) for name in written]
    return tuple(
        Licensed(name, None, None, None, None)
        if licence is None
        else Licensed(name, licence.name, licence.asks, licence.link, licence.free)
        for name, licence in found
    )
