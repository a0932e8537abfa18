"""Near pairs and nearest neighbours among up to millions of vectors, exact or approximate.

`exact.py` compares every pair, by short sketches first (`sketch.py`). `cells.py` compares only where neighbours are
likely and measures its own recall. `order.py` keeps the first vector of each group of near ones. `survey.py` says of
each vector which other is nearest and how many are near. `vectors.py` holds the vectors and the arithmetic.
"""
