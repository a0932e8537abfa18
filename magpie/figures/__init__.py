"""Numbers about a run."""
