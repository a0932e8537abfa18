"""YAML as people write it, read within limits: no aliases that multiply, no endless nesting, nothing but plain data.

Errors are one line that names the file, the line and the column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from magpie.errors import RecipeError

MOST_BYTES = 64 << 20
"""The largest file that a person wrote which is read."""
_MOST_NODES = 1_000_000
_DEEPEST = 100
# YAML 1.1 takes these for true and false. Most people mean text, as in `language: no`.
_SURPRISING_BOOLEANS = re.compile(r"^(?:y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF)$")
