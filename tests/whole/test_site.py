"""The documentation's site: it builds, and has a page for each command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from eqnet.cli.app import app

ROOT = Path(__file__).parents[2]
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def names() -> set[str]:
    """Every command as the file of its page is called."""
    found = set()
    for name, command in COMMANDS.items():
        inside = getattr(command, "commands", None)
        found |= {name} if inside is None else {f"{name}-{one}" for one in inside}
    return found


def test_every_command_has_a_page_with_its_options(site):
    made = {path.stem for path in (site / "commands").glob("*.html")} - {"index"}
    assert made == names()
    text = (site / "commands" / "bench.html").read_text(encoding="utf-8")
    for option in COMMANDS["bench"].params:
        assert option.opts[0] in text


def test_the_reference_has_every_key_of_a_profile(site):
    from eqnet.spec.hardware.profile import HardwareProfile

    text = (site / "profile-reference.html").read_text(encoding="utf-8")
    for key in HardwareProfile.model_fields:
        assert f"<code>{key}</code>" in text


def test_the_api_has_every_function_of_the_door(site):
    import eqnet

    text = (site / "api.html").read_text(encoding="utf-8")
    for name in eqnet.__all__:
        if not name.startswith("_"):
            assert re.search(rf'id="eqnet\.[\w.]*\b{name}"', text), name


def test_nothing_is_loaded_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img)[^>]+src="https?:', text), path
        assert not re.findall(r'<link[^>]+rel="stylesheet"[^>]+href="https?:', text), path
