"""Stands at the gates of a build: looks, writes down what it saw, and lets the build go on or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from magpie.errors import GateError, PausedError
from magpie.execution.gate import GateCheck
from magpie.figures.gate import Finding, Looked, look
from magpie.recipe import Gate
from magpie.runs.run import GATE, Run
from magpie.storage import Storage
from magpie.text import counted


class Gatekeeper:
    """A GateChecker. `note` tells a person what was seen; with `go_on` what ended an earlier build is passed."""

    def __init__(self, run: Run, note: Callable[[str], None], *, go_on: bool = False) -> None:
        self._run, self._note, self._go_on = run, note, go_on

    def __call__(self, check: GateCheck) -> None:
        """Do a check, unless it was passed before. Raises GateError or PausedError."""
        gate, seen = self._run.recipe.gate, seen_at_gates(self._run.storage)
        assert gate is not None
        known = seen.get(check.name, {})
        asked = {"shards": check.shards, "gate": gate.model_dump(mode="json")}
        is_known = {name: known.get(name) for name in asked} == asked
        if is_known and known.get("passed"):
            return
        looked = look(self._run, gate, shards=check.shards, before=check.before)
        may_pass = not looked.beyond or gate.action == "warn"
        accepted = self._go_on and gate.action == "pause" and known.get("passed") is False
        facts = {
            **asked, "rows": looked.rows, "findings": [finding.to_json() for finding in looked.findings],
            "passed": may_pass or accepted,
        }  # fmt: skip
        self._run.storage.replace(GATE, json.dumps({**seen, check.name: facts}, indent=1).encode())
        if not looked.findings:
            self._note(
                f"gate {check.name}: {counted(looked.rows, 'row')} of text cannot tell yet; the next look has more"
            )
        elif looked.beyond:
            self._beyond(gate, check, looked, accepted=accepted)

    def _beyond(self, gate: Gate, check: GateCheck, looked: Looked, *, accepted: bool) -> None:
        said = "; ".join(described(finding) for finding in looked.beyond)
        found = f"at the gate {check.name}, {looked.rows:,} rows: {said}"
        location = self._run.storage.location
        if gate.action == "warn" or accepted:
            self._note(f"{found}{' (passed by --go-on)' if accepted else ''}")
        elif gate.action == "stop":
            raise GateError(
                f"stopped {found}; no response was written: change the recipe and build into another folder, or set "
                f"the bound anew with --set gate.{looked.beyond[0].measure}=..."
            )
        else:
            raise PausedError(
                f"paused {found}; no response was written: look with `magpie show {location}`, then build again with "
                "--go-on to go on as it is, or change the recipe and build into another folder"
            )


def described(finding: Finding) -> str:
    """A finding in words, with its bound."""
    value = "?" if finding.value is None else f"{finding.value:.0%}"
    return f"{value} {finding.what} ({'least' if finding.least else 'most'} {finding.bound:.0%})"


def seen_at_gates(storage: Storage) -> dict[str, Any]:
    """What was seen at each check; empty where nothing was, or it cannot be read."""
    try:
        seen = json.loads(storage.read(GATE))
    except (OSError, ValueError, RecursionError):
        return {}
    return seen if isinstance(seen, dict) else {}
