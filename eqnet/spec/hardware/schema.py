"""The JSON Schema of hardware profiles, which editors complete and check YAML with.

``python -m eqnet.spec.hardware.schema`` writes ``hw_profiles/profile.schema.json`` anew, or the
file that is named as its one argument.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eqnet.spec.errors import EqnetError, OutputError, UsageError
from eqnet.spec.hardware.load import profiles_dir
from eqnet.spec.hardware.profile import HardwareProfile

SCHEMA = "profile.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def profile_schema() -> dict[str, Any]:
    """The schema of a profile file: HardwareProfile, and `extends`, which loading resolves.

    A profile that extends another leaves keys to it, so nothing is required then but `extends`.
    """
    schema = HardwareProfile.model_json_schema()
    required = schema.pop("required")
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "a profile to lay this one over: beside this file, or built in",
    }
    return {
        **schema,
        "$schema": DIALECT,
        "title": "eqnet hardware profile",
        "anyOf": [{"required": ["extends"]}, {"required": required}],
    }


def schema_text() -> str:
    """The content of the committed schema file."""
    return json.dumps(profile_schema(), indent=2) + "\n"


def write_schema(path: Path) -> Path:
    """Write the schema under a temporary name and rename it. Raises OutputError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(schema_text(), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror or error}") from error
    return path


def main(arguments: Sequence[str]) -> int:
    """Write the schema; returns the exit code."""
    try:
        if len(arguments) > 1:
            raise UsageError(f"{len(arguments)} arguments (allowed: at most one, a path)")
        path = Path(arguments[0]) if arguments else profiles_dir() / SCHEMA
        print(write_schema(path))
    except EqnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
