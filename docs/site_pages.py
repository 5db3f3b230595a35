"""Pages of the documentation's site that are made of the code: one for each command, and the
reference of profiles from their schema. `mkdocs` calls the functions by their names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

from eqnet.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "hw_profiles" / "profile.schema.json"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {f"commands/{name}.md": text for name, text in command_pages()}
    listing = "\n".join(
        f"- [eqnet {name}]({name.replace(' ', '-')}.md): {command.get_short_help_str(100)}"
        for name, command in commands()
    )
    pages["commands/index.md"] = f"# Every command\n\n{listing}\n"
    pages["profile-reference.md"] = profile_page(json.loads(SCHEMA.read_text("utf-8")))
    for path, text in pages.items():
        made = File.generated(config, path, content=text)
        if path.startswith("commands/") and path != "commands/index.md":
            made.inclusion = made.inclusion.NOT_IN_NAV
        files.append(made)
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files beside the documentation, as in the repository, become their names."""
    return OUTSIDE.sub(r"\1", markdown)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command, as click has it, with its words after `eqnet`; groups are taken apart."""
    group: Any = get_command(app)  # a group, whose class typer keeps to itself
    for name, command in group.commands.items():
        inside = getattr(command, "commands", None)
        if inside is None:
            yield name, command
        else:
            yield from ((f"{name} {inner}", one) for inner, one in inside.items())


def command_pages() -> Iterator[tuple[str, str]]:
    """File name and Markdown of each command's page."""
    for name, command in commands():
        yield name.replace(" ", "-"), _command_page(name, command)


def _command_page(name: str, command: Any) -> str:
    text, _, examples = (command.help or "").partition("\b\n")
    lines = [f"# eqnet {name}", "", *_paragraphs(text), ""]
    if examples:
        shown = "\n".join(line for line in examples.splitlines() if line != "Examples:")
        lines += ["## Examples", "", "```sh", _dedent(shown), "```", ""]
    rows = [_parameter_row(one) for one in command.params]
    if rows:
        lines += ["## Arguments and options", "", "| | what |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _paragraphs(text: str) -> list[str]:
    return [_safe(" ".join(part.split())) + "\n" for part in text.split("\n\n") if part.strip()]


def _dedent(text: str) -> str:
    return "\n".join(line.removeprefix("  ") for line in text.splitlines()).strip()


def _parameter_row(one: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    if one.param_type_name == "argument":
        names = f"`{one.name}`"
    shown = getattr(one, "show_default", None)
    default = shown if isinstance(shown, str) else one.default
    told = _safe(" ".join((getattr(one, "help", "") or "").split()))
    if one.required:
        told += " Required."
    elif default not in (None, False, "", ()) and not callable(default):
        told += f" Default: {_safe(str(default))}."
    return f"| {names} | {told} |"


def _safe(text: str) -> str:
    """A text as Markdown shows it; capitals that stand for a value are code already enough."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def profile_page(schema: Mapping[str, Any]) -> str:
    """The reference of profiles: every key of every section, from the JSON schema."""
    lines = [
        "# Profile reference",
        "",
        "Every key of a hardware profile, made from `hw_profiles/profile.schema.json`; "
        "[Writing a hardware profile](writing-a-profile.md) says what they mean together.",
        "",
    ]
    lines += _section("profile", schema)
    for name, part in sorted(schema.get("$defs", {}).items()):
        if "properties" in part:
            lines += _section(name, part)
    return "\n".join(lines)


def _section(name: str, part: Mapping[str, Any]) -> list[str]:
    lines = [f"## {name}", ""]
    if part.get("description"):
        lines += [_safe(" ".join(part["description"].split())), ""]
    lines += ["| key | type | default | what |", "|---|---|---|---|"]
    required = set(part.get("required", ()))
    for key, rule in part["properties"].items():
        default = "required" if key in required else _safe(json.dumps(rule.get("default")))
        told = _safe(" ".join(str(rule.get("description", "")).split()))
        lines.append(
            f"| `{key}` | {_type(rule)} | {default.replace('|', chr(92) + '|')} | {told} |"
        )
    return [*lines, ""]


def _type(rule: Mapping[str, Any]) -> str:
    if "$ref" in rule:
        name = str(rule["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if name[0].isupper() else name
    for key in ("anyOf", "oneOf"):
        if key in rule:
            return " or ".join(_type(one) for one in rule[key])
    if "const" in rule:
        return f"`{json.dumps(rule['const'])}`"
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    if rule.get("type") == "array" and isinstance(rule.get("items"), Mapping):
        return f"list of {_type(rule['items'])}"
    return str(rule.get("type", "any"))
