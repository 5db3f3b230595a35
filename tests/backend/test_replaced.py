"""An artifact that another process replaces while it is read, or while a report is written."""

import errno
import os
import shutil
import tempfile
from typing import Any

import numpy as np
import pytest
from artifacts import pixels, profile, write_artifact
from graphs import residual_net

import eqnet.backend.files as files
import eqnet.runtime as loading
import eqnet.stages.bench.run as benching
import eqnet.stages.inspect.run as inspecting
import eqnet.stages.verify.parity as verifying
from eqnet.backend.artifact import foreign_content, read_manifest
from eqnet.backend.disk import exchange
from eqnet.backend.disk.replaced import TRIES, read_as_one
from eqnet.backend.files import new_folder, write_file, write_files
from eqnet.spec.errors import ArtifactError, OutputError
from eqnet.spec.manifest import MANIFEST, MODEL, PARITY
from eqnet.spec.outside.inspection import BackendFinding


class Replaced:
    """An artifact, and another one of the same files that takes its place when `now` is called.

    left: how often that happens; every time it is a new folder.
    """

    def __init__(self, folder, other, left=1):
        self.folder, self.other, self.left, self.times = folder, other, left, 0

    def now(self):
        if self.left:
            self.left -= 1
            self.times += 1
            with new_folder(self.folder, foreign=lambda _: None) as made:
                shutil.copytree(self.other, made, dirs_exist_ok=True, copy_function=shutil.copy)

    def around(self, monkeypatch, module, name, moment):
        """Have it replaced before or after each call of a function."""
        real = getattr(module, name)

        def call(*arguments, **options):
            if moment == "before":
                self.now()
            result = real(*arguments, **options)
            if moment == "after":
                self.now()
            return result

        monkeypatch.setattr(module, name, call)


@pytest.fixture
def replaced(tmp_path):
    # Other weights and other images: a file of the one and the hash of the other never agree.
    write_artifact(tmp_path / "a", residual_net(), profile())
    write_artifact(tmp_path / "other", residual_net(), profile(), shift=1e-6)
    content = read_manifest(tmp_path / "other").files
    assert content[PARITY] != read_manifest(tmp_path / "a").files[PARITY]
    return Replaced(tmp_path / "a", tmp_path / "other")


class Silent:
    """Nobody who is asked about a file."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask_shapes(self, *_):
        pass

    def ask(self, *_):
        pass

    def shapes(self):
        return {}

    def finding(self, name, layers):
        return BackendFinding(backend=name, verdict="skipped")


MOMENTS = [
    *((verifying.verify, verifying, name) for name in ("read_manifest", "check_files")),
    *((verifying.verify, verifying, name) for name in ("read_parity", "_prove_int8")),
    *((benching.bench, benching, name) for name in ("read_manifest", "check_files", "Setup")),
    *((loading.load, loading, name) for name in ("read_manifest", "check_files")),
    (inspecting.inspect, inspecting, "check_file"),
]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("run", "module", "name"), MOMENTS, ids=[f"{run.__name__}-{name}" for run, _, name in MOMENTS]
)
def test_the_new_artifact_is_read_as_one(replaced, monkeypatch, run, module, name, moment):
    if run is inspecting.inspect:  # without its processes, each of a second
        monkeypatch.setattr(inspecting, "Questions", Silent)
    new = read_manifest(replaced.other)
    replaced.around(monkeypatch, module, name, moment)
    options: dict[str, Any] = {"threads": 1}
    if run is benching.bench:
        options = {"repeats": 5}
    elif run is inspecting.inspect:
        options = {"backends": ["lowbit"]}
    result = run(replaced.folder, **options)
    assert replaced.times == 1
    assert read_manifest(replaced.folder).digest == new.digest
    if run is verifying.verify:
        assert (result.verdict, result.digest) == ("passed", new.digest)
    elif run is benching.bench:
        assert result.verdict in ("passed", "skipped")
    elif run is inspecting.inspect:
        assert result.profile == new.profile.name
    else:
        assert result.manifest.digest == new.digest
        assert np.isfinite(result(pixels(2))).all()


def test_what_belongs_to_an_artifact_is_said_by_its_own_manifest(replaced, monkeypatch):
    shutil.copy(replaced.other / PARITY, replaced.other / "more.bin")
    manifest = read_manifest(replaced.other)
    more = manifest.model_copy(update={"files": {**manifest.files, "more.bin": "0" * 64}})
    (replaced.other / MANIFEST).write_text(more.model_dump_json())
    import eqnet.backend.artifact as module

    replaced.around(monkeypatch, module, "_parsed", "after")
    assert foreign_content(replaced.folder) is None
    assert replaced.times == 1


def test_one_that_is_replaced_all_the_time_is_one_line(replaced, monkeypatch):
    replaced.left = 10**6
    replaced.around(monkeypatch, verifying, "check_files", "before")
    with pytest.raises(ArtifactError, match=f"replaced {TRIES} times") as caught:
        verifying.verify(replaced.folder, threads=1)
    assert "\n" not in str(caught.value)
    assert replaced.times == TRIES


def test_damage_is_told_at_once(tmp_path):
    marker, calls = tmp_path / MANIFEST, []
    marker.write_text("{}")

    def read():
        calls.append(1)
        (tmp_path / "verify.json").write_text("a report changes its folder and not the artifact")
        raise ArtifactError("damaged")

    with pytest.raises(ArtifactError, match="damaged"):
        read_as_one(marker, read)
    marker.unlink()
    with pytest.raises(ArtifactError, match="damaged"):
        read_as_one(marker, read)
    assert len(calls) == 2


@pytest.mark.parametrize("exchanged", [True, False])
@pytest.mark.parametrize(("module", "name"), [(tempfile, "mkstemp"), (os, "fchmod"), (os, "fsync")])
def test_a_report_follows_into_the_folder_that_took_the_place(
    replaced, monkeypatch, exchanged, module, name
):
    if not exchanged:
        monkeypatch.setattr(exchange, "exchange", lambda *_: False)
    real = getattr(module, name)

    def once(*arguments):
        monkeypatch.setattr(module, name, real)
        found = real(*arguments)
        replaced.now()
        return found

    monkeypatch.setattr(module, name, once)
    reports = {replaced.folder / name: name for name in ("verify.json", "bench.json")}
    write_files(reports)
    assert replaced.times == 1
    kept = {path.name for path in replaced.other.iterdir()} | {"verify.json", "bench.json"}
    assert {path.name for path in replaced.folder.iterdir()} == kept
    assert all(path.read_text() == name for path, name in reports.items())
    assert (replaced.folder / MODEL).is_file()
    assert sorted(path.name for path in replaced.folder.parent.iterdir()) == ["a", "other"]


def test_a_folder_that_is_never_the_same_is_one_line(tmp_path, monkeypatch):
    tries = []

    def vanish(*_):
        tries.append(1)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(files, "sync_folder", vanish)
    with pytest.raises(OutputError, match="replaced again and again"):
        write_file(tmp_path / "verify.json", "content")
    assert len(tries) == files.TRIES
