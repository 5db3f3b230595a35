"""What is installed: what imports without torch, how little the command line loads, wheel, sdist.

Installations from an index are tried by `make matrix` (tests/tools/install_matrix.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from install_matrix import JOBS, MODULES, RefusedError, why_not
from install_pins import constraints, extras, lowest, project, requirements
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]

BOARD = [
    "eqnet.spec",
    "eqnet.subnets",
    "eqnet.backend",
    "eqnet.data",
    "eqnet.latency",
    "eqnet.stages.profile_device",
    "eqnet.stages.verify",
    "eqnet.stages.bench",
    "eqnet.stages.inspect",
    "eqnet.stages.compare",
    "eqnet.runtime",
    "eqnet_exporters.onnxruntime",
    "eqnet_exporters.openvino",
    "eqnet_exporters.tensorrt",
    "eqnet_exporters.lowbit",
]
NEEDS_TORCH = ["eqnet.data.augment"]

# Imports a package and all its modules where every import of torch fails.
WITHOUT_TORCH = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Refuse())
name, *skipped = sys.argv[1:]
package = importlib.import_module(name)
for module in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
    if module.name not in skipped:
        importlib.import_module(module.name)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", BOARD)
def test_the_target_board_needs_no_torch(package: str) -> None:
    done = python(WITHOUT_TORCH, package, *NEEDS_TORCH)
    assert done.returncode == 0, done.stderr


def test_the_block_on_torch_is_real() -> None:
    done = python(WITHOUT_TORCH, NEEDS_TORCH[0])
    assert done.returncode != 0
    assert "torch is blocked" in done.stderr


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = (
        "{'torch', 'torchvision', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'onnx'}"
    )
    done = python(f"import sys, eqnet.cli.main; print(sorted({heavy} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_entry_point_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = [*project["scripts"].values(), *project["entry-points"]["eqnet.exporters"].values()]
    code = "import sys, pkgutil; pkgutil.resolve_name(sys.argv[1])"
    for target in targets:
        done = python(code, target)
        assert done.returncode == 0, f"{target}: {done.stderr}"


def build(target: str, source: Path, folder: Path) -> Path:
    """The distribution that hatchling makes of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(wheel_file)


def in_tree(folder: Path, prefix: str) -> set[str]:
    """The wheel's names of the files of a folder, but for what Python and git leave behind."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = (file for file in files if "__pycache__" not in file.parts and file.name[0] != ".")
    return {f"{prefix}/{file.as_posix()}" for file in kept}


def test_the_wheel_holds_every_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    wanted = in_tree(ROOT / "eqnet", "eqnet")
    wanted |= in_tree(ROOT / "exporters" / "eqnet_exporters", "eqnet_exporters")
    wanted |= in_tree(ROOT / "hw_profiles", "eqnet/hw_profiles")
    wanted |= in_tree(ROOT / "recipes", "eqnet/recipes")
    assert "eqnet/py.typed" in wanted
    assert "eqnet/hw_profiles/tensorrt_int8.yaml" in wanted
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_the_wheel_carries_both_licences(wheel: zipfile.ZipFile) -> None:
    licences = [name for name in wheel.namelist() if ".dist-info/licenses/" in name]
    texts = [wheel.read(name).decode() for name in sorted(licences)]
    assert len(texts) == 2
    assert "Apache License" in texts[0]
    assert "Zalando SE" in texts[1]


def test_an_installed_wheel_reads_its_data(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import eqnet
from eqnet.data.fashion_mnist import open_fashion_mnist
from eqnet.spec.hardware.load import builtin_profiles, load_profile
assert eqnet.__file__.startswith(sys.argv[1]), eqnet.__file__
assert len(open_fashion_mnist(system=()).parity()) == 2000
print([load_profile(name).name for name in builtin_profiles()])
"""
    done = python(code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "'openvino_asym'" in done.stdout


def test_the_sdist_makes_the_same_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    for name in ("tests/conftest.py", "examples/own_network.py", "Makefile", ".ci/run"):
        assert (source / name).is_file(), name
    made = zipfile.ZipFile(build("wheel", source, tmp_path / "wheel"))
    contents = [{item.filename: item.CRC for item in file.infolist()} for file in (wheel, made)]
    assert contents[0] == contents[1]


# A module of the new environment that lets no torch be found, though it borrows the packages of
# the one that runs the tests.
HIDE_TORCH = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
"""


@pytest.fixture
def board(wheel_file: Path, tmp_path: Path) -> Path:
    """The programs of an environment into which pip installed the wheel; it has no torch."""
    venv.create(tmp_path / "board", with_pip=False, symlinks=True)
    programs = tmp_path / "board" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet"]
    pip += ["--no-deps", "--no-index", "--no-compile", str(wheel_file)]
    subprocess.run(pip, check=True, capture_output=True)
    (packages,) = (tmp_path / "board").glob("lib/python*/site-packages")
    (packages / "hide_torch.py").write_text(HIDE_TORCH, encoding="utf-8")
    borrowed = f"import hide_torch\n{sysconfig.get_path('purelib')}\n"
    (packages / "borrowed.pth").write_text(borrowed, encoding="utf-8")
    return programs


def test_an_installed_board_verifies_and_names_what_it_lacks(
    board: Path, artifact: Path, tmp_path: Path
) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(board / arguments[0]), *arguments[1:]]
        return subprocess.run(
            command, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False
        )

    where = call("python", "-c", "import eqnet; print(eqnet.__file__)")
    assert str(board.parent) in where.stdout
    verified = call("eqnet", "verify", str(artifact))
    assert verified.returncode == 0, verified.stderr
    assert "passed" in verified.stdout
    refused = call("eqnet", "export", "--profile", "onnxruntime_x86")
    assert refused.returncode == 10, refused.stderr
    assert "pip install 'eqnet[train]'" in refused.stderr


MARKED = ["numpy>=1.26", "numpy>=2.1; python_version >= '3.13'"]


@pytest.mark.parametrize(
    ("lines", "python", "pins"),
    [
        (MARKED, "3.12", {"numpy": "1.26"}),
        (MARKED, "3.13", {"numpy": "2.1"}),
        (MARKED[::-1], "3.13", {"numpy": "2.1"}),
        (["torch>=2.9,<3", "onnx==1.19"], "3.11", {"torch": "2.9", "onnx": "1.19"}),
        (["rtx>=1.4; sys_platform == 'none'"], "3.11", {}),
    ],
)
def test_the_lowest_claimed_release_is_the_highest_bound_that_holds(
    lines: list[str], python: str, pins: dict[str, str]
) -> None:
    found = lowest(map(Requirement, lines), {"python_version": python})
    assert found == {name: Version(version) for name, version in pins.items()}
    assert constraints(found) == "".join(f"{n}=={v}\n" for n, v in sorted(pins.items()))


def test_a_claim_without_a_lowest_release_is_refused() -> None:
    with pytest.raises(ValueError, match="typer<1: no lower bound"):
        lowest([Requirement("typer<1")], {})


def test_every_dependency_says_its_lowest_release() -> None:
    claimed = requirements(project())
    names = {line.name for line in claimed}
    assert {"numpy", "torch", "openvino", "tensorrt", "matplotlib"} <= names
    assert set(lowest(claimed, {"python_version": "3.13"})) <= names


def test_the_matrix_tries_every_extra() -> None:
    assert JOBS.keys() | MODULES.keys() == {"board", "sdist", *extras(project())}
    assert not JOBS.keys() & MODULES.keys()


@pytest.mark.parametrize(
    ("what", "told", "called", "line"),
    [
        (
            "board",
            "Collecting numpy\nERROR: No matching distribution found for numpy==1.26\n[notice]",
            "skipped: no wheel",
            "ERROR: No matching distribution found for numpy==1.26",
        ),
        (
            "all",
            "  x No solution found:\n  Because pyyaml==6.0 has no usable wheels and eqnet needs it",
            "skipped: no wheel",
            "Because pyyaml==6.0 has no usable wheels and eqnet needs it",
        ),
        ("all", "error: HTTP status 500\nhint: again", "failed: install", "error: HTTP status 500"),
        (
            "tensorrt",
            "error: Failed to build `libs`\n\nhint: a problem",
            "skipped: not to be had here",
            "error: Failed to build `libs`",
        ),
    ],
)
def test_a_refused_installation_is_told_apart(what: str, told: str, called: str, line: str) -> None:
    assert why_not(what, told) == called
    assert RefusedError(told).line("error|failed|because") == line
    assert RefusedError(told).line() == told.splitlines()[-1].strip()


def test_no_room_is_too_large():
    """A folder holds at most 15 files and 1,500 lines; `capture` alone is let off."""
    for base in (ROOT / "eqnet", ROOT / "exporters"):
        for folder in [base, *base.rglob("*")]:
            files = list(folder.glob("*.py")) if folder.is_dir() else []
            lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
            if folder.name != "capture":
                assert len(files) <= 15, folder
                assert lines <= 1500, folder
