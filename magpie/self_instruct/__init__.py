"""The second method, Self-Instruct (Wang et al., 2022): instructions written by example, from seed tasks."""
