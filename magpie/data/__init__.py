"""Datasets: their columns, their messages, and those that were made elsewhere."""
