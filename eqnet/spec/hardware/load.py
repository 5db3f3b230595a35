"""Finding and reading hardware profiles: built in by name, or any YAML file by path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from eqnet.spec.errors import ProfileError, one_line, unknown
from eqnet.spec.fields import first_problem
from eqnet.spec.hardware.profile import SCHEMA_VERSION, HardwareProfile
from eqnet.spec.texts import LARGEST, read_bounded

MAX_BYTES = 64 * 1024
MAX_EXTENDS = 8
MAX_NAME = 200
# What PyYAML raises for a value that is not what its tag says, beside errors of its own.
ODD_VALUES = (ValueError, LookupError, AttributeError, TypeError, RecursionError)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases, which profiles do not need and bombs are made of, and without
    keys that are given twice, of which plain YAML silently keeps the last."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # of PyYAML
            raise yaml.YAMLError(f"line {mark.line + 1}: aliases are not allowed")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        first: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in first:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"line {line}: key '{key.value}' is given twice")
                first.add((key.tag, key.value))
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        if isinstance(value, int) and abs(value) > LARGEST:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: an integer beyond 64 bits")
        return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a small YAML mapping. Raises ProfileError with one line."""
    try:
        raw = read_bounded(path, MAX_BYTES)
    except OSError as error:
        raise ProfileError(f"{path}: cannot read: {error.strerror}") from error
    if raw is None:
        raise ProfileError(f"{path}: too large (allowed: at most {MAX_BYTES} bytes)")
    try:
        content = yaml.load(raw, Loader=_PlainLoader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, *ODD_VALUES) as error:
        raise ProfileError(f"{path}: not valid YAML: {_yaml_line(error)}") from error
    if not isinstance(content, dict):
        raise ProfileError(f"{path}: found {type(content).__name__} (allowed: a mapping of keys)")
    return content


def _yaml_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}: {getattr(error, 'problem', 'syntax error')}"
    return one_line(error)


def profiles_dir() -> Path:
    """Folder of the built-in profiles: inside a wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "hw_profiles"
    return inside if inside.is_dir() else package.parent / "hw_profiles"


def builtin_profiles() -> list[str]:
    """Names of the built-in profiles, sorted."""
    return sorted(path.stem for path in profiles_dir().glob("*.yaml"))


def load_profile(name_or_path: str) -> HardwareProfile:
    """Load a profile by built-in name or by path of a YAML file.

    Raises ProfileError naming the file, the key, what was found and what is allowed.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_path not in builtin_profiles():
            raise ProfileError(unknown("profile", name_or_path, builtin_profiles()))
        path = profiles_dir() / f"{name_or_path}.yaml"
    return _validate(path, _resolve(path, MAX_EXTENDS, path.parent))


def _resolve(path: Path, depth: int, home: Path) -> dict[str, Any]:
    """Read a profile and lay it over the one that it extends, key by key.

    home: the folder of the profile that is loaded, from which its lookup table is sought.
    """
    content = read_yaml(path)
    _move_table(content, path.parent, home)
    base = content.pop("extends", None)
    if base is None:
        return content
    if depth == 0:
        raise ProfileError(f"{path}: extends: more than {MAX_EXTENDS} levels, or a circle")
    if not isinstance(base, str) or not 0 < len(base) <= MAX_NAME or not base.isprintable():
        found = one_line(str(base), 60)
        raise ProfileError(
            f"{path}: extends: found '{found}' (allowed: a name of at most {MAX_NAME} characters)"
        )
    beside = path.parent / f"{base}.yaml"
    parent = beside if beside.is_file() else profiles_dir() / f"{base}.yaml"
    if not parent.is_file():
        raise ProfileError(f"{path}: extends: {unknown('profile', base, builtin_profiles())}")
    return _merge(_resolve(parent, depth - 1, home), content)


def _move_table(content: dict[str, Any], folder: Path, home: Path) -> None:
    """Name a lookup table of a profile in `folder` as it is found from `home`.

    The name stays relative, so that a profile has the same hash wherever its files lie.
    """
    cost = content.get("cost")
    if not isinstance(cost, dict) or folder == home:
        return
    table = cost.get("table")
    if isinstance(table, str):
        content["cost"] = {**cost, "table": os.path.relpath(folder / table, home)}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and not _is_other(value, below):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _is_other(value: dict[str, Any], base: dict[str, Any]) -> bool:
    """Whether a cost model is another than the base's, whose parameters it then lacks."""
    return value.get("model", base.get("model")) != base.get("model")


def _validate(path: Path, content: dict[str, Any]) -> HardwareProfile:
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ProfileError(
            f"{path}: schema_version: found {version}, made for a newer eqnet "
            f"(allowed: {SCHEMA_VERSION})"
        )
    try:
        return HardwareProfile.model_validate(content)
    except ValidationError as error:
        raise ProfileError(f"{path}: {first_problem(error)}") from error
