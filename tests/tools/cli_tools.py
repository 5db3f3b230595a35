"""Helpers of the command line's tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
PROFILE = """\
schema_version: 1
name: my_chip
backend: lowbit
weights: {granularity: per_channel, symmetry: symmetric}
activations: {symmetry: asymmetric}
bits: [[4, 8], [8, 8]]
cost: {model: size}
"""


def write_profile(folder: Path, name: str = "my_chip") -> Path:
    """Write a valid profile; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(PROFILE.replace("my_chip", name))
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error; nothing else was printed."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


class Stage:
    """Puts stand-ins where commands find their public functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, name: str, function: Callable[..., Any]) -> None:
        module, _, attribute = name.rpartition(".")
        if module in ("eqnet.stages.verify", "eqnet.stages.bench"):
            self._monkeypatch.setattr(f"{module}.{attribute}", function)
        else:
            stand_in = SimpleNamespace(**{attribute: function})
            self._monkeypatch.setitem(sys.modules, module, stand_in)


def use_profiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 'alpha' and 'beta' be the built-in profiles."""
    for name in ("alpha", "beta"):
        write_profile(folder, name)
    monkeypatch.setattr("eqnet.spec.hardware.load.profiles_dir", lambda: folder)
