"""`eqnet export` keeps an artifact that exporting again would not bring back."""

from __future__ import annotations

import json
import shutil

import pytest
from artifacts import rewrite

from eqnet.spec.errors import OutputError
from eqnet.spec.manifest import MANIFEST
from eqnet.stages.export import export as module

PROFILE = "onnxruntime_x86"


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported(PROFILE), tmp_path / "made")


@pytest.fixture
def written(monkeypatch):
    """The folders that would have been written, without the work."""
    folders = []
    monkeypatch.setattr(module, "export_in", lambda *a: folders.append(a[4]))
    return folders


def foreign(folder) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["subnet"]["supernet"] = "0" * 64
    rewrite(folder, **content)


def test_the_same_supernet_and_profile_replace_their_artifact(folder, written):
    module.export(profile=PROFILE, out=folder)
    assert written == [folder]


def test_another_profile_is_refused_in_one_line(folder, written):
    with pytest.raises(OutputError, match=rf"for profile '{PROFILE}' .*--force") as error:
        module.export(profile="openvino_asym", out=folder)
    assert "\n" not in str(error.value)
    assert written == []


def test_another_supernet_is_refused_and_force_replaces(folder, written):
    foreign(folder)
    with pytest.raises(OutputError, match="supernet 000000000000"):
        module.export(profile=PROFILE, out=folder)
    module.export(profile=PROFILE, out=folder, force=True)
    assert written == [folder]
