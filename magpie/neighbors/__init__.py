"""Which of a million vectors are near each other: all of them found, or nearly all of them found sooner.

`exact.py` compares every pair, in few dimensions first; `cells.py` looks only where neighbours are likely to be and
measures what that misses; `order.py` goes through rows in an order of preference and keeps what is near nothing kept.
"""
