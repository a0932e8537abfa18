"""Datasets for trainers and for the hub."""
