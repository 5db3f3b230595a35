"""What is installed: what imports without torch, how little the command line loads, the wheel."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


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


def test_no_room_is_too_large():
    """A folder holds at most 15 files and 1,500 lines; `capture` alone is let off."""
    for base in (ROOT / "eqnet", ROOT / "exporters"):
        for folder in [base, *base.rglob("*")]:
            files = list(folder.glob("*.py")) if folder.is_dir() else []
            lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
            if folder.name != "capture":
                assert len(files) <= 15, folder
                assert lines <= 1500, folder
