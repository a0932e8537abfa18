"""Which variables a chat template reads, and which of them it cannot do without."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import nodes

_MASKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_GIVEN = {"messages", "add_generation_prompt", "raise_exception", "strftime_now"}


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables a chat template reads and does not set, the messages and the tokenizer's tokens left out.

    `needed` are those that it writes or works with without a look at whether they are there.
    """

    read: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()


def read_variables(template: str, *, given: frozenset[str] = frozenset()) -> Variables:
    """The variables of a chat template; none for text that is no template. `given` are names to leave out."""
    from jinja2 import Environment, TemplateError, meta, nodes

    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True)
    try:
        tree = environment.parse(_MASKS.sub("", template))
    except TemplateError:
        return Variables()
    known = given | _GIVEN | set(environment.globals)
    free = frozenset(meta.find_undeclared_variables(tree)) - known
    # A name that is set somewhere counts only where the template asks whether it was given.
    set_inside = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    asked = {node.node.name for node in tree.find_all(nodes.Test) if isinstance(node.node, nodes.Name)}
    guarded = {node.name for node in _looked_at(tree) if isinstance(node, nodes.Name)}
    return Variables(free - (set_inside - asked), free - set_inside - guarded)


def _looked_at(tree: nodes.Template) -> Iterator[nodes.Node]:
    """The expressions that are asked whether they are there or true, compared, or given a default."""
    from jinja2 import nodes

    yield from (node.test for node in tree.find_all(nodes.If))
    yield from (node.test for node in tree.find_all(nodes.CondExpr))
    for given in tree.find_all(nodes.Filter):
        if given.name in {"default", "d"} and given.node is not None:
            yield given.node
    for node in tree.find_all((nodes.Test, nodes.Compare, nodes.Operand, nodes.Or, nodes.And, nodes.Not)):
        yield from node.iter_child_nodes()
