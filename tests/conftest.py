"""Fixtures that several test files share: bundled data, artifacts, refusals, a small search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from search_tools import World

    from eqnet.spec.hardware.profile import BenchRules

# PyTorch's traces of itself, thousands of lines that pytest would format for every failure.
logging.getLogger("torch.__trace").propagate = False


@pytest.fixture(scope="session")
def bundled_data_only() -> Iterator[None]:
    """Let no installed Fashion-MNIST be found, so that results are the same everywhere."""
    from eqnet.data import fashion_mnist

    find = fashion_mnist.find_folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_mnist, "find_folder", lambda root, system=(): find(root, ()))
        yield


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, bundled_data_only: None
) -> Callable[[str], Path]:
    """The artifact of a built-in profile's default subnet, exported by the command line once.

    Shared by all tests: a test that changes anything copies it first.
    """
    from eqnet.cli.main import main

    root = tmp_path_factory.mktemp("exported")
    made: dict[str, Path] = {}

    def export(profile: str) -> Path:
        if profile not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(root)  # no search result lies here
                # What a race takes depends on the CPU, and on what else it does.
                assert main(["export", "--profile", profile, "--no-race", "-q"]) == 0
            made[profile] = root / "artifacts" / profile
        return made[profile]

    return export


@pytest.fixture(scope="session", autouse=True)
def short_benches() -> Iterator[None]:
    """A benchmark that nobody told how long to take is short: no test looks at its figures."""
    from eqnet.backend.machine.sampling import Enough
    from eqnet.stages.bench import measure

    usual, real = Enough().max_seconds, measure.enough

    def enough(rules: BenchRules) -> Enough:
        asked = real(rules)
        return replace(asked, max_seconds=0.5) if asked.max_seconds >= usual else asked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "enough", enough)
        yield


def _tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the content of files; byte code does not count."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def unchanged(tmp_path: Path) -> Iterator[None]:
    """Whatever lies in `tmp_path` when this is asked for must be there, and alone, afterwards."""
    before = _tree(tmp_path)
    yield
    assert _tree(tmp_path) == before


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Run a command that must fail in `tmp_path`, in one line, and leave it exactly as it was."""
    from eqnet.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(arguments: list[object], code: int, *told: object) -> None:
        before = _tree(tmp_path)
        found = main([str(item) for item in arguments])
        captured = capsys.readouterr()
        assert found == code, captured.err
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.endswith("\n")
        assert captured.err.count("\n") == 1
        assert "Traceback" not in captured.err
        assert "unexpected" not in captured.err
        assert len(captured.err) < 800
        for part in told:
            assert str(part) in captured.err
        assert _tree(tmp_path) == before

    return run


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A small artifact made by hand, which a test may damage."""
    from artifacts import profile, write_artifact
    from graphs import residual_net

    folder = tmp_path / "made"
    write_artifact(folder, residual_net(), profile())
    return folder


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A search in a small network with stand-ins for the predictor and the data."""
    from nets import small_supernet
    from search_tools import World

    return World(tmp_path, small_supernet(), monkeypatch)
