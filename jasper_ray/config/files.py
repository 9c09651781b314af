"""YAML files and KEY=VALUE overrides to a `RunConfig`; unknown keys and bad values are refused with advice."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jasper_ray.config.knobs import known_keys
from jasper_ray.config.schema import RunConfig
from jasper_ray.config.strict import StrictModel
from jasper_ray.errors import ConfigError

Config = TypeVar("Config", bound=StrictModel)

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML where a key given twice is an error instead of the last one winning."""


def _mapping_of_unique_keys(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_of_unique_keys)


def load_run_config(
    path: str | Path, overrides: Sequence[str] = (), *, environ: Mapping[str, str] | None = None
) -> RunConfig:
    """Read a YAML file, apply overrides, check everything.

    Args:
        path: The file. `${NAME}` and `${NAME:-default}` in its strings are taken from the environment.
        overrides: `KEY=VALUE`, KEY dotted (`optimizer.lr=0.02`, `data.train.0.path=/data`), VALUE as in YAML.
        environ: The environment; the process's own by default.

    Raises:
        ConfigError: Names the file or override, the dotted key, the value, what is allowed and the nearest known key.
    """
    return load_config(RunConfig, path, overrides, environ=os.environ if environ is None else environ)


def load_config(
    model: type[Config],
    path: str | Path | None,
    overrides: Sequence[str],
    *,
    environ: Mapping[str, str],
    prefix: str = "",
) -> Config:
    """`load_run_config` for any config model; without a file, overrides of the defaults.

    `prefix` is what the overrides began with on the command line: errors name them so.
    """
    tree = {} if path is None else _read_tree(Path(path), environ)
    origins = {_set(tree, override, prefix): f"override {prefix + override!r}" for override in overrides}
    return validate_tree(model, tree, source="settings" if path is None else str(path), origins=origins)


def validate_tree(
    model: type[Config], tree: Mapping[str, Any], *, source: str, origins: Mapping[str, str] | None = None
) -> Config:
    """Plain values as a config model.

    Args:
        model: The config model.
        tree: Nested mappings of keys.
        source: Where they come from, in words.
        origins: For dotted keys that come from elsewhere, where that is.

    Raises:
        ConfigError: Names the source, the dotted key, the value and what is allowed.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, details, file=source, origins=origins or {}) for details in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def _read_tree(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys, got {type(tree).__name__}")
    return {key: _expand(item, environ, source=str(path)) for key, item in tree.items()}


def dump_config(config: StrictModel) -> str:
    """The resolved config as YAML that `load_run_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _expand(value: Any, environ: Mapping[str, str], *, source: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, environ, source=source) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, environ, source=source) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = environ.get(name, default)
        if found is None:
            raise ConfigError(
                f"{source}: {value!r} needs the environment variable {name}: set it, or write ${{{name}:-default}}"
            )
        return found

    return VARIABLE.sub(replace, value)


def _set(tree: dict[str, Any], override: str, prefix: str) -> str:
    """Put one KEY=VALUE into the tree; returns the key."""
    key, equals, text = override.partition("=")
    source = f"override {prefix + override!r}"
    if not equals or not key:
        raise ConfigError(f"{source}: must be KEY=VALUE, for example optimizer.lr=0.02")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: the value is not YAML: {error}") from error
    set_value(tree, key, value, source=source)
    return key


def set_value(tree: dict[str, Any], key: str, value: Any, *, source: str) -> None:
    """Put a value into a tree of plain values under a dotted key; what is missing on the way is made.

    Raises:
        ConfigError: The key leads through a value that has no keys, or to a place that a list does not have.
    """
    *parents, leaf = key.split(".")
    node: Any = tree
    for depth, part in enumerate(parents):
        if isinstance(node, dict):
            node = node.setdefault(part, {})
            if node is None:
                raise ConfigError(f"{source}: {'.'.join(parents[: depth + 1])} is null, set it as a whole")
        else:
            node = node[_position(node, part, source)]
    if isinstance(node, dict):
        node[leaf] = value
    else:
        node[_position(node, leaf, source)] = value


def get_value(tree: Mapping[str, Any], key: str, *, source: str) -> Any:
    """The value under a dotted key of a tree of plain values.

    Raises:
        ConfigError: There is none.
    """
    node: Any = tree
    for part in key.split("."):
        if isinstance(node, Mapping):
            if part not in node:
                raise ConfigError(f"{source}: {key!r} is not there: {part!r} must be one of {', '.join(node)}")
            node = node[part]
        else:
            node = node[_position(node, part, source)]
    return node


def _position(node: Any, part: str, source: str) -> int:
    if not isinstance(node, list):
        raise ConfigError(f"{source}: {part!r} is below the value {node!r}, which has no keys")
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"{source}: {part!r} must be a position from 0 to {len(node) - 1}")
    return int(part)


def _explain(model: type[StrictModel], details: ErrorDetails, *, file: str, origins: Mapping[str, str]) -> str:
    """One line for one of pydantic's errors: where, which key, which value, what is allowed, what was meant."""
    parts = [str(part) for part in details["loc"]]
    key = ".".join(parts)
    where = next((origin for name, origin in origins.items() if key == name or key.startswith(name + ".")), file)
    known = known_keys(model)
    if details["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r} (value {details['input']!r}). {suggest_key(key, known)}"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "missing":
        return f"{where}: {key}: is required"
    if details["type"] == "value_error":  # one of our own validators: says the values itself
        return f"{where}: {key}: {message}" if key else f"{where}: {message}"
    return f"{where}: {key}: got {details['input']!r}; {message[0].lower()}{message[1:]}"


def suggest_key(key: str, known: Sequence[str]) -> str:
    """What an unknown key may have meant, and which keys there are beside it."""
    pattern = re.sub(r"\.\d+(?=\.|$)", ".N", key)
    parent, _, leaf = pattern.rpartition(".")
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    near = same_leaf or difflib.get_close_matches(pattern, known, n=1, cutoff=0.75)
    if not near:
        leaves = {name.rpartition(".")[2]: name for name in reversed(known)}
        near = [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    advice = f"Did you mean {near[0]!r}? " if near else ""
    names = [name.rpartition(".")[2] for name in siblings] if parent else top_level(known)
    return advice + (f"Keys there: {', '.join(names)}." if names else f"Top-level keys: {', '.join(top_level(known))}.")


def top_level(known: Sequence[str]) -> list[str]:
    """First parts of dotted keys, each once, in order."""
    return list(dict.fromkeys(name.partition(".")[0] for name in known))
