"""Renders chat templates, in a process of its own: a template comes with a model and may do anything a program can.

Run as a script, by path and with nothing of magpie's: JSON lines come in and go out. Time, memory and the length of a
text are bounded here. Whoever asks reads from how the process ended what a template did: see `jinja.py`.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template, nodes

CPU_SECONDS = 5.0
WALL_SECONDS = 60.0
MEMORY = 1 << 30
LONGEST_TEXT = 4_000_000
LONGEST_REASON = 300

# transformers' own tags, which mark the assistant's tokens for training. Jinja alone does not know them.
_GENERATION_TAGS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def main() -> None:
    """Answer one request a line, until no more come."""
    # What is not in the folder of this Python's packages was found by whoever started this process.
    sys.path += sys.argv[1:]
    import jinja2.ext
    import jinja2.sandbox  # noqa: F401 - before memory is limited

    _limit_memory()
    for name in ("SIGPROF", "SIGALRM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)  # they end this process, whatever it is doing
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        answer = json.dumps(_answer(request))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


def _limit_memory() -> None:
    import resource

    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(ValueError, OSError):  # not every system knows every limit
            resource.setrlimit(kind, (least, least))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        if request["do"] == "variables":
            return variables(request["template"])
        today = datetime.fromisoformat(request["today"])
        strict = bool(request.get("strict"))
        return {"text": _text(request["template"], request["variables"], today, strict=strict)}
    except MemoryError:
        failure = f"it needs more than {MEMORY >> 20:,} MB of memory"
    except RecursionError:
        failure = "it calls itself without end"
    except UnicodeEncodeError:
        failure = "it writes half a character, which is not valid Unicode"
    except Exception as error:  # a template may raise of every kind
        failure = (str(error).strip() or type(error).__name__)[:LONGEST_REASON]
    return {"failure": failure}


def _text(template: str, values: dict[str, Any], today: datetime, *, strict: bool) -> str:
    text = render(template, values, today, strict=strict)
    text.encode()
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"it writes {len(text):,} characters")
    return text


def render(template: str, values: dict[str, Any], today: datetime, *, strict: bool = False) -> str:
    """The text that a chat template writes, by the rules of transformers' `apply_chat_template`.

    `strict` is for other templates: a variable that is not given is an error, and space before a block stays.
    """
    return _compiled(template, today, strict).render(**values)


@lru_cache(maxsize=64)
def _compiled(template: str, today: datetime, strict: bool) -> Template:
    from jinja2 import StrictUndefined, TemplateError, Undefined, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        thing: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            thing, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    class GenerationTag(Extension):
        """transformers' own tag, which marks the assistant's tokens for training. Here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

        def _same(self, caller: Any) -> Any:
            return caller()

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=not strict,
        undefined=StrictUndefined if strict else Undefined,
        extensions=[GenerationTag, loopcontrols],
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": today.strftime}
    return environment.from_string(template)


def variables(template: str) -> dict[str, list[str]]:
    """The variables that a chat template reads and does not set, and those that it does not check before."""
    from jinja2 import Environment, TemplateError, meta, nodes

    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True)
    try:
        tree = environment.parse(_GENERATION_TAGS.sub("", template))
        free = meta.find_undeclared_variables(tree)
    except TemplateError:
        return {"read": [], "needed": []}
    free -= set(environment.globals)
    # A name that the template also sets is usually its own. It can be set from outside only where the template tests
    # whether it is defined, as in `{% if not x is defined %}{% set x = 1 %}`.
    set_inside = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    tested = {node.node.name for node in tree.find_all(nodes.Test) if isinstance(node.node, nodes.Name)}
    checked = {node.name for node in _checked_expressions(tree) if isinstance(node, nodes.Name)}
    return {"read": sorted(free - (set_inside - tested)), "needed": sorted(free - set_inside - checked)}


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


if __name__ == "__main__":
    main()
