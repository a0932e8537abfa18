"""Datasets on their way out."""
