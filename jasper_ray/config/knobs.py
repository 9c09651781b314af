"""The list of knobs that a config model declares: key, type, default and help text."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jasper_ray.config.strict import StrictModel


@dataclass(frozen=True)
class Knob:
    """One leaf of the config tree; `N` in the key stands for a position in a list."""

    key: str
    kind: str
    default: str
    help: str


def list_knobs(model: type[StrictModel], prefix: str = "", defaults: BaseModel | None = None) -> Iterator[Knob]:
    """Every leaf of a config model in the order of declaration."""
    for name, field in model.model_fields.items():
        key = prefix + name
        nested, is_list = _nested_model(field.annotation)
        default = getattr(defaults, name) if defaults is not None else _default(field)
        if nested is None:
            yield Knob(key, _kind(field.annotation), _text(default, field), field.description or "")
        elif is_list:
            yield Knob(key, "list", "[]" if not default else "...", field.description or "")
            yield from list_knobs(nested, f"{key}.N.")
        else:
            yield from list_knobs(nested, f"{key}.", default)


def known_keys(model: type[StrictModel]) -> list[str]:
    """Dotted keys of all leaves."""
    return [knob.key for knob in list_knobs(model)]


def describe_knobs(model: type[StrictModel]) -> str:
    """Help text: a paragraph per section, a line or two per knob with type, default and meaning."""
    lines: list[str] = []
    section = None
    for knob in list_knobs(model):
        head = knob.key.partition(".")[0] if "." in knob.key else "run"
        if head != section:
            section = head
            lines += ["", f"{head}:"]
        lines.append(f"  {knob.key}  ({knob.kind}, default {knob.default})")
        lines.append(f"      {knob.help}")
    return "\n".join(lines[1:])


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True) if not field.is_required() else None


def _text(default: Any, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "[" + ", ".join(str(item) for item in default) + "]"
    return repr(default) if isinstance(default, str) else str(default)


def _nested_model(annotation: Any) -> tuple[type[StrictModel] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return annotation, False
    if get_origin(annotation) is tuple:
        item = get_args(annotation)[0]
        if isinstance(item, type) and issubclass(item, StrictModel):
            return item, True
    return None, False


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return "|".join(_kind(part) for part in get_args(annotation))
    if origin is tuple:
        return f"list of {_kind(get_args(annotation)[0])}"
    if origin is dict:
        return "mapping"
    return {int: "whole number", float: "number", str: "text", bool: "true|false", type(None): "null"}.get(
        annotation, str(annotation)
    )
