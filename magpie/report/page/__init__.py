"""The report of a run or a dataset: one page that needs nothing else."""
