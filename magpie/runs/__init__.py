"""Runs: from a recipe to phases, from phases to shards on disk, and back from disk to rows."""
