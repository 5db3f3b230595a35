"""Fixtures of the end-to-end tests: bundled supernet, bundled data, artifacts made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


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
                assert main(["export", "--profile", profile, "-q"]) == 0
            made[profile] = root / "artifacts" / profile
        return made[profile]

    return export
