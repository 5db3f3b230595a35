"""The README and the documents: snippets run, commands parse, names and links are real."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import SmallNet, randomize
from typer.core import TyperGroup
from typer.main import get_command

from eqnet.backend.preprocess import preprocess
from eqnet.cli.app import app
from eqnet.cli.failure import BROKEN_PIPE, TERMINATED
from eqnet.cli.main import INTERRUPTED
from eqnet.data import open_dataset
from eqnet.runtime import load
from eqnet.spec import errors
from eqnet.spec.hardware.load import builtin_profiles, load_profile

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
MY_NET = """
from nets import SmallNet


def build(classes):
    return SmallNet(classes)
"""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands(path: Path) -> list[str]:
    """Indented lines of a document that call eqnet, without comments."""
    text = text_of(path).replace("\\\n", " ")
    lines = re.findall(r"^    eqnet (.+)$", text, re.M)
    return [line.partition(" #")[0].strip() for line in lines]


COMMANDS = [(path.name, line) for path in DOCUMENTS for line in commands(path)]


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_every_command_of_a_document_parses(document, line):
    words, found = shlex.split(line.partition(" > ")[0]), get_command(app)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    found.make_context(found.name, words)  # raises for unknown options and missing arguments


def test_the_readme_shows_every_command():
    shown = {line.split()[0] for line in commands(README)}
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    assert set(command.commands) <= shown


def write_photos(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, rng.integers(32, 256), (60, 60, 3), dtype=np.uint8)
            image.fromarray(pixels).save(folder / label / f"{number}.png")


def write_weights(path: Path, photos: Path) -> None:
    """A network that finds both classes: few bits then change some of its answers."""
    net = randomize(SmallNet(classes=2))
    data = open_dataset("image_folder", photos)
    pixels, _ = data.calibration().take(36)
    images = torch.from_numpy(preprocess(pixels, data.preprocessing))
    for norm in (net.stem_bn, net.bn1, net.bn2):
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(images)  # the statistics that every subnet is recalibrated to
        net.head.bias -= net.eval()(images).median(0).values
    torch.save(net.state_dict(), path)


def test_the_python_quickstart_runs(tmp_path, monkeypatch, capsys):
    write_photos(tmp_path / "photos")
    (tmp_path / "my_net.py").write_text(MY_NET, encoding="utf-8")
    write_weights(tmp_path / "my_net.pt", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eqnet.supernet.latency.REPEATS", 5)
    code = re.search(r"^```python\n(.*?)^```", text_of(README), re.M | re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(compile(code[1], str(README), "exec"), names)
    assert names["logits"].shape == (1, 2)
    assert names["checked"].top1_agreement >= 11 / 12  # a rounding tie may move one of 12 images
    assert names["timed"].ratio > 0
    assert load("artifacts/onnxruntime_x86").manifest.subnet_origin == "search"
    assert str(names["checked"].verdict) in capsys.readouterr().out


def classes_of_errors() -> set[type[errors.EqnetError]]:
    found = {value for value in vars(errors).values() if inspect.isclass(value)}
    return {value for value in found if issubclass(value, errors.EqnetError)}


def test_the_exit_codes_of_the_readme_are_all_there_are():
    section = text_of(README).partition("## Exit codes")[2].partition("\n## ")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.M)}
    known = {value.exit_code for value in classes_of_errors()}
    assert listed == known | {0, INTERRUPTED, BROKEN_PIPE, TERMINATED}


def test_the_profiles_of_the_readme_are_the_built_in_ones():
    section = text_of(README).partition("## Profiles")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section, re.M))
    assert rows == {name: load_profile(name).backend for name in builtin_profiles()}


def references() -> list[tuple[str, str, str]]:
    """Every `file::name` in the documents."""
    pattern = r"`((?:eqnet|exporters)/[\w/]+\.py)::([\w.]+)`"
    return [(p.name, *found) for p in DOCUMENTS for found in re.findall(pattern, text_of(p))]


def test_the_documents_refer_to_code():
    assert {"architecture.md", "paper-map.md"} <= {document for document, _, _ in references()}


@pytest.mark.parametrize(("document", "file", "name"), references())
def test_every_reference_to_code_resolves(document, file, name):
    module = file.removeprefix("exporters/").removesuffix(".py").replace("/", ".")
    assert (ROOT / file).is_file()
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)\)", text_of(path))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing
