"""A plan carried out: workers take shards through phases."""
