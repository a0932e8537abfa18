"""The card of a dataset: the README that the Hub shows, with figures, all of it from the dataset and its run."""
