"""What every part of a recipe is built on: the checks all parts share, and the types their settings use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from magpie.names import file_name, revision_name
from magpie.recipe.problems import recipe_error

Share = Annotated[float, Field(gt=0)]
"""How many of the rows, relative to the other shares of a list. Shares need not add up to 1."""

Text = Annotated[str, Field(min_length=1)]
"""A string that is not empty."""


FileName = Annotated[str, AfterValidator(file_name)]
Revision = Annotated[str, AfterValidator(revision_name)]
"""A name that is also the name of a file or a folder."""


@dataclass(frozen=True, slots=True)
class RoleName:
    """Marks a setting whose value is a role: a key of `models`. `advice` says what to do when there is no such key."""

    advice: str = ""


Role = Annotated[Text, RoleName()]
"""A role: a key of `models`. The recipe refuses one that is not there."""


@dataclass(frozen=True, slots=True)
class ShapesNoRows:
    """Marks a setting that says where or how fast rows are made: it may change from one build of a run to the next.

    `but` names the one setting inside it that may not, once it is set.
    """

    but: str | None = None


_NUMBERS = (int, float, int | None, float | None)


class Part(BaseModel):
    """A part of a recipe, a filter or a chat template. Unknown keys are refused, and values do not change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,  # YAML has .nan and .inf, and no setting means anything by them
        protected_namespaces=(),
        use_attribute_docstrings=True,  # the text below a setting is its description in the JSON schema
    )

    def __init__(self, /, **settings: Any) -> None:
        """Made in Python, a part raises RecipeError as one from a file does."""
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise recipe_error(type(self), error, type(self).__name__) from None

    # Pydantic then goes on to make the parts inside a part, and those of files, without this `__init__`.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # Python and Pydantic take true for 1: `rows: true` would build one row.
        annotation = cls.model_fields[info.field_name].annotation if info.field_name else None
        if isinstance(value, bool) and annotation in _NUMBERS:
            raise ValueError("must be a number")
        return value


class Section(Part):
    """A section of a recipe, such as `instruct`. It is off when the recipe holds null for it."""

    def check(self, recipe: Any) -> None:
        """Check what the section needs from other sections of the whole `recipe`. Raises ValueError.

        The recipe calls it for every section that is on, after each section has been checked by itself and all roles
        are known to be under `models`.
        """


def that_shapes_rows(part: type[Part], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a part, as YAML gives them, without those that shape no rows."""
    shaping: dict[str, Any] = {}
    for name, value in raw.items():
        field = part.model_fields.get(name)
        mark = (
            next((mark for mark in field.metadata if isinstance(mark, ShapesNoRows)), None) if field else None
        )
        if mark is not None:
            if mark.but and isinstance(value, Mapping) and value.get(mark.but) is not None:
                shaping[name] = {mark.but: value[mark.but]}
            continue
        inner = None if field is None else part_in_type(field.annotation)
        if inner is None or not isinstance(value, Mapping):
            shaping[name] = value
        elif get_origin(field.annotation if field else None) is dict:
            shaping[name] = {
                key: that_shapes_rows(inner, each) if isinstance(each, Mapping) else each
                for key, each in value.items()
            }
        else:
            shaping[name] = that_shapes_rows(inner, value)
    return shaping


def part_in_type(annotation: Any) -> type[Part] | None:
    """The Part in `Part`, `Part | None` or `dict[str, Part]`."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    found = (part_in_type(option) for option in get_args(annotation))
    return next((part for part in found if part is not None), None)


def named_roles(part: Part) -> Iterator[tuple[str, str, RoleName]]:
    """The roles that a part, and the parts inside it, name: (dotted path of the setting, role, mark of the setting)."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        mark = _role_mark(field)
        if mark is not None and value is not None:
            yield name, value, mark
        for path, inner in _parts_in(value, name):
            yield from ((f"{path}.{setting}", role, mark) for setting, role, mark in named_roles(inner))


def _role_mark(field: FieldInfo) -> RoleName | None:
    # Pydantic takes the marks off `Role` and leaves them on the inner type of `Role | None`.
    marks = [*field.metadata]
    for option in get_args(field.annotation):
        marks += getattr(option, "__metadata__", ())
    return next((mark for mark in reversed(marks) if isinstance(mark, RoleName)), None)


def _parts_in(value: Any, path: str) -> Iterator[tuple[str, Part]]:
    if isinstance(value, Part):
        yield path, value
    elif isinstance(value, tuple):
        for number, entry in enumerate(value):
            yield from _parts_in(entry, f"{path}.{number}")
