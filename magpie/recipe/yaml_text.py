"""YAML as people write it, read within limits: no aliases that multiply, no endless nesting, nothing but plain data.

What YAML 1.1 reads in a way that surprises is refused, or read as text: `012` (octal), `1:30` (base 60), dates.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from magpie.errors import RecipeError

_MOST_BYTES = 4 << 20  # a minute's work for the parser
_MOST_VALUES = 1_000_000
# A recipe that a build has written holds the texts of its files too: up to a million, and the settings.
_MOST_BYTES_OF_A_BUILD = 256 << 20
_MOST_VALUES_OF_A_BUILD = 4 * _MOST_VALUES
_DEEPEST = 100
_UNREADABLE = (ValueError, AttributeError, TypeError, OverflowError)


def parse_yaml_text(text: str, origin: str, *, is_large: bool = False) -> Any:
    """What YAML text holds; `origin` is what an error calls it. Raises RecipeError with the line and the column.

    `is_large` is for what a build has written, which may hold more than a person would write.
    """
    if len(text) > (_MOST_BYTES_OF_A_BUILD if is_large else _MOST_BYTES):
        raise RecipeError(
            f"{origin} has more than {_MOST_BYTES >> 20} MB of YAML; write long lists as .txt or .jsonl"
        )
    try:
        return yaml.load(text, _LargeLoader if is_large else _Loader)  # noqa: S506 - SafeLoaders
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError(f"{origin} is not valid YAML: {place}{error.problem}; mend that line") from error
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{origin} is not YAML text: {' '.join(str(error).split())}; save it as UTF-8"
        ) from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which PyYAML takes the last, and whatever grows without bound."""

    most_values = _MOST_VALUES

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        self._depth += 1
        if self._depth > _DEEPEST:
            _refuse(f"more than {_DEEPEST} levels of nesting", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if not isinstance(event, yaml.AliasEvent):
            self._sizes[id(node)] = self._size(node)
        elif id(node) not in self._sizes:
            _refuse("an alias that stands inside of what it names", mark)
        if self._sizes[id(node)] > self.most_values:
            _refuse(f"more than {self.most_values:,} values, with all aliases written out", mark)
        return node

    def _size(self, node: yaml.Node) -> int:
        """How many values the node holds once every alias in it is replaced by what it stands for."""
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        else:
            parts = node.value if isinstance(node, yaml.SequenceNode) else []
        return 1 + sum(self._sizes[id(part)] for part in parts)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    _refuse(f"`{key.value}` is written twice", key.start_mark)
                seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int":
            digits = node.value.lstrip("+-")
            if ":" in digits or (len(digits) > 1 and digits[0] == "0" and digits[1].isdecimal()):
                _refuse(
                    f"`{node.value}` is not a decimal number in YAML: write it without the zeros in front, "
                    "or in quotes if it is text",
                    node.start_mark,
                )
        try:
            return super().construct_object(node, deep=deep)
        except _UNREADABLE as error:
            kind = node.tag.rpartition(":")[2]
            _refuse(f"a value that cannot be read as {kind} ({error})", node.start_mark, error)


class _LargeLoader(_Loader):
    most_values = _MOST_VALUES_OF_A_BUILD


# Other libraries change how SafeLoader reads a kind, for the whole process (lm-format-enforcer, which comes with vLLM,
# reads timestamps as text), so this loader has tables of its own.
_KINDS = ["null", "bool", "int", "float", "binary", "timestamp", "omap", "pairs", "set", "str", "seq", "map"]
_Loader.yaml_constructors = {
    None: SafeConstructor.construct_undefined,
    **{f"tag:yaml.org,2002:{kind}": getattr(SafeConstructor, f"construct_yaml_{kind}") for kind in _KINDS},
}
# A date is text like any other: no setting is a date.
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for letter, resolvers in Resolver.yaml_implicit_resolvers.items()
}


def _refuse(problem: str, mark: yaml.Mark | None, cause: Exception | None = None) -> Any:
    raise yaml.constructor.ConstructorError(None, None, problem, mark) from cause
