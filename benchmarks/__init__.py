"""Measurements: `python -m benchmarks.NAME`. README.md says what each one measures."""

import os

# The report of a run is no part of what is timed, but for the benchmark that is about it.
os.environ.setdefault("MAGPIE_REPORT", "0")
