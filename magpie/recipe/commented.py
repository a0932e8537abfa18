"""A recipe written out for people: every key with its value, and above it what it means and what its default is.

The meanings are the texts below the settings of this package, so a new setting needs no change here. What is written
loads again as the same recipe.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from magpie.recipe.base import Part, Section, part_in_type
from magpie.recipe.models import Model
from magpie.recipe.recipe import Recipe

_WIDTH = 100  # characters of a line of comment, its indent included


def commented(recipe: Recipe) -> str:
    """The recipe as YAML, with every key, its meaning and its default as comments."""
    heading = (
        f"The recipe {recipe.name}, with every setting there is. What is at its default can be left out. "
        "A section that is null is off; to switch it on, take away the null and the # below it."
    )
    blocks = [_comment(heading, ""), *(list(lines) for _, lines in _settings(type(recipe), recipe, ""))]
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _settings(part: type[Part], values: Part | None, indent: str) -> Iterator[tuple[str, Iterator[str]]]:
    """The name of each setting of a part, and its lines. Without `values`, it is a part that is off."""
    for name, field in part.model_fields.items():
        value = _default(field) if values is None else getattr(values, name)
        yield name, _setting(name, field, value, indent, is_off=values is None)


def _lines(part: type[Part], values: Part | None, indent: str) -> Iterator[str]:
    for _, lines in _settings(part, values, indent):
        yield from lines


def _setting(name: str, field: FieldInfo, value: Any, indent: str, *, is_off: bool) -> Iterator[str]:
    yield from _comment(meaning(field), indent)
    inner = part_in_type(field.annotation)
    if isinstance(value, Part):
        yield f"{indent}{name}:"
        yield from _lines(type(value), value, f"{indent}  ")
    elif value is None and inner is not None and not field.is_required() and not _is_mapping(field):
        yield f"{indent}{name}: null"
        yield f"{indent}# {name}:"
        for line in _lines(inner, None, "  "):
            yield f"{indent}# {line}"
    elif name == "models" and isinstance(value, Mapping):
        yield f"{indent}{name}:"
        yield from _models(value, f"{indent}  ")
    elif value and inner is not None and isinstance(value, tuple | Mapping):
        yield f"{indent}{name}:"
        yield from _entries_have(inner, f"{indent}  ")
        for key, entries in value.items() if isinstance(value, Mapping) else ((None, value),):
            if key is not None:
                yield f"{indent}  {inline(key)}:"
            for entry in entries:
                written = brief(entry) if isinstance(entry, Part) else None
                yield f"{indent}  {'' if key is None else '  '}- {inline(written or plain(entry))}"
    elif is_off and field.is_required():
        yield f"{indent}{name}:"
        if inner is not None:
            yield from _entries_have(inner, f"{indent}  ")
    else:
        if inner is not None:
            yield from _entries_have(inner, indent)
        yield f"{indent}{name}: {inline(plain(value))}"


def _models(models: Mapping[str, Model], indent: str) -> Iterator[str]:
    """The first role with every key; of the others the keys that are not at their default."""
    written: dict[str, Model] = {}
    for role, model in models.items():
        same = next((other for other, known in written.items() if known == model), None)
        if same is not None:
            yield f"{indent}{inline(role)}: {inline(same)}"
        elif not written:
            yield f"{indent}{inline(role)}:"
            yield from _lines(Model, model, f"{indent}  ")
        else:
            yield f"{indent}{inline(role)}: {inline(brief(model))}"
        written[role] = model


def _entries_have(part: type[Part], indent: str) -> Iterator[str]:
    yield f"{indent}# Each entry has these keys:"
    yield from _keys(part, indent, "  ")


def _keys(part: type[Part], indent: str, more: str) -> Iterator[str]:
    """The keys of a part and, further in, of the parts within it."""
    for name, field in part.model_fields.items():
        yield from _comment(f"{name}: {meaning(field)}", indent, more=more)
        inner = part_in_type(field.annotation)
        if inner is not None:
            yield from _keys(inner, indent, f"{more}  ")


def _is_mapping(field: FieldInfo) -> bool:
    """Whether a setting holds parts by names of the user's."""
    return any(get_origin(option) is dict for option in (field.annotation, *get_args(field.annotation)))


def meaning(field: FieldInfo) -> str:
    """The description of a setting, the words it may be, and its default."""
    texts = [" ".join((field.description or "").split())]
    words = [word for option in _options(field.annotation) for word in option]
    if words:
        texts.append(f"One of: {', '.join(map(str, words))}.")
    default = _default(field)
    optional = NoneType in get_args(field.annotation)
    if field.is_required():
        texts.append("It has no default.")
    elif isinstance(default, Section):
        texts.append("On by default; null switches it off." if optional else "")
    elif default is None and part_in_type(field.annotation) is not None:
        texts.append("Off by default.")
    elif not isinstance(default, Part):
        texts.append(f"Default: {inline(plain(default))}.")
    return " ".join(filter(None, texts))


def _options(annotation: Any) -> Iterator[tuple[Any, ...]]:
    if get_origin(annotation) is Literal:
        yield get_args(annotation)
    for argument in get_args(annotation):
        yield from _options(argument)


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _comment(text: str, indent: str, *, more: str = "") -> list[str]:
    opening = f"{indent}# {more}"
    return textwrap.wrap(
        text,
        max(40, _WIDTH),
        initial_indent=opening,
        subsequent_indent=opening + more,
        break_long_words=False,
        break_on_hyphens=False,
    )


def plain(value: Any) -> Any:
    """A value of a recipe as YAML has it."""
    if isinstance(value, Part):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    return value


def brief(part: Part) -> dict[str, Any]:
    """The settings of a part that are not at their default, as YAML has them."""
    return part.model_dump(mode="json", exclude_defaults=True)


def inline(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.dump(
        value,
        Dumper=_OneLine,
        default_flow_style=True,
        width=float("inf"),
        allow_unicode=True,
        sort_keys=False,
    )
    return text.removesuffix("...\n").strip()


class _OneLine(yaml.SafeDumper):
    """Writes texts of several lines in double quotes, where a line end is two characters; those with quotes too."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    quoted = "'" in text or text.splitlines() not in ([], [text])
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_OneLine.add_representer(str, _text)
