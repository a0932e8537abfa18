"""The variables that a chat template reads, and those that it cannot do without."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import nodes

# transformers' own tags, which mark the assistant's tokens for training. Jinja alone does not know them.
_GENERATION_TAGS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_ALWAYS_GIVEN = {"messages", "add_generation_prompt", "raise_exception", "strftime_now"}


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables a chat template reads and does not set, the messages and the tokenizer's tokens left out.

    `needed` are those that it uses without first checking whether they are defined.
    """

    read: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()


def read_variables(template: str, *, given: frozenset[str] = frozenset()) -> Variables:
    """The variables of a chat template; none for text that is not valid Jinja. `given` are names to leave out."""
    from jinja2 import Environment, TemplateError, meta, nodes

    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True)
    try:
        tree = environment.parse(_GENERATION_TAGS.sub("", template))
    except TemplateError:
        return Variables()
    defined = given | _ALWAYS_GIVEN | set(environment.globals)
    free = frozenset(meta.find_undeclared_variables(tree)) - defined
    # A name that the template also sets is usually its own. It can be set from outside only where the template tests
    # whether it is defined, as in `{% if not x is defined %}{% set x = 1 %}`.
    set_inside = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    tested = {node.node.name for node in tree.find_all(nodes.Test) if isinstance(node.node, nodes.Name)}
    checked = {node.name for node in _checked_expressions(tree) if isinstance(node, nodes.Name)}
    return Variables(free - (set_inside - tested), free - set_inside - checked)


def _checked_expressions(tree: nodes.Template) -> Iterator[nodes.Node]:
    """The expressions that are tested, compared, or given a default: they may be undefined."""
    from jinja2 import nodes

    yield from (node.test for node in tree.find_all(nodes.If))
    yield from (node.test for node in tree.find_all(nodes.CondExpr))
    for use in tree.find_all(nodes.Filter):
        if use.name in {"default", "d"} and use.node is not None:
            yield use.node
    for node in tree.find_all((nodes.Test, nodes.Compare, nodes.Operand, nodes.Or, nodes.And, nodes.Not)):
        yield from node.iter_child_nodes()
