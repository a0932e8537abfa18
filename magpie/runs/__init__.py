"""A run: its files, its shards and what they were made from, and rows put together from them."""
