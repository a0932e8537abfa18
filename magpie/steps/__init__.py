"""Steps: each adds columns to rows, one file a step."""
