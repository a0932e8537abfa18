"""The labels that judges choose from: those of the published datasets (arXiv 2406.08464)."""

from __future__ import annotations

DIFFICULTIES = ("very easy", "easy", "medium", "hard", "very hard")
QUALITIES = ("very poor", "poor", "average", "good", "excellent")
CATEGORIES = (
    "Information seeking", "Reasoning", "Planning", "Editing", "Coding & Debugging", "Math", "Role playing",
    "Data analysis", "Creative writing", "Advice seeking", "Brainstorming", "Others",
)  # fmt: skip

SCALES = {"task_category": CATEGORIES, "difficulty": DIFFICULTIES, "input_quality": QUALITIES}
"""The values that a column of tags may have."""
