"""What processes leave that are killed while they write, and what the next one makes of it."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from artifacts import profile, write_artifact
from graphs import residual_net

from eqnet.backend.artifact import foreign_content
from eqnet.backend.disk import exchange, temporaries
from eqnet.backend.files import new_folder, write_file, write_files
from eqnet.spec.errors import OutputError

PREAMBLE = """
import os, signal, sys
from pathlib import Path
from eqnet.backend.disk import exchange, temporaries
from eqnet.backend import files

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def make(target, content):
    with files.new_folder(target, foreign=lambda _: None) as folder:
        (folder / "manifest.json").write_text(content)

target = Path(sys.argv[1])
"""
NO_EXCHANGE = "exchange.exchange = lambda *_: False\n"


def killed(code: str, target: Path) -> None:
    """Run code that kills its own process."""
    command = [sys.executable, "-c", PREAMBLE + code, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def make(target: Path, content: str) -> None:
    with new_folder(target, foreign=lambda _: None) as folder:
        (folder / "manifest.json").write_text(content)


def fail_to_make(target: Path) -> None:
    with new_folder(target, foreign=lambda _: None):
        raise ZeroDivisionError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_writer_leaves_the_old_file_and_the_next_leaves_nothing_else(tmp_path):
    target = tmp_path / "verify.json"
    write_file(target, "old")
    killed("os.fsync = die; files.write_file(target, 'new')", target)
    assert target.read_text() == "old"
    assert len(names(tmp_path)) == 2
    write_file(target, "newer")
    assert names(tmp_path) == ["verify.json"]
    assert target.read_text() == "newer"


def test_a_killed_export_leaves_the_old_folder_and_the_next_leaves_nothing_else(tmp_path):
    target = tmp_path / "artifact"
    make(target, "old")
    killed("exchange.exchange = die; make(target, 'new')", target)
    assert (target / "manifest.json").read_text() == "old"
    make(target, "newer")
    assert (target / "manifest.json").read_text() == "newer"
    assert names(tmp_path) == ["artifact"]


def test_killed_after_the_exchange_the_new_folder_stands_and_the_old_is_cleaned_up(tmp_path):
    target, other = tmp_path / "artifact", tmp_path / "other"
    make(target, "old")
    other.mkdir()
    if not exchange.exchange(target, other):
        pytest.skip("this system or file system cannot exchange two names")
    exchange.exchange(target, other)
    other.rmdir()
    code = "real = exchange.exchange; exchange.exchange = lambda *paths: real(*paths) and die()\n"
    killed(code + "make(target, 'new')", target)
    assert (target / "manifest.json").read_text() == "new"
    make(target, "newer")
    assert names(tmp_path) == ["artifact"]


BETWEEN = (
    NO_EXCHANGE
    + """
once, rename = [], Path.rename
def second_dies(self, to):
    if once: die()
    once.append(1)
    return rename(self, to)
make(target, 'old')
Path.rename = second_dies
make(target, 'new')
"""
)


def test_killed_between_two_renames_the_old_folder_comes_back_even_if_the_next_fails(tmp_path):
    target = tmp_path / "artifact"
    killed(BETWEEN, target)
    assert not target.exists()
    with pytest.raises(ZeroDivisionError):
        fail_to_make(target)
    assert (target / "manifest.json").read_text() == "old"
    assert names(tmp_path) == ["artifact"]


def test_where_two_names_cannot_be_exchanged_folders_are_replaced_all_the_same(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(exchange, "exchange", lambda *_: False)
    for content in ("old", "new"):
        make(tmp_path / "artifact", content)
    assert (tmp_path / "artifact" / "manifest.json").read_text() == "new"
    assert names(tmp_path) == ["artifact"]


def test_exchange_swaps_two_names_or_says_that_it_cannot(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    swapped = exchange.exchange(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path / "a") == (["b"] if swapped else ["a"])
    with pytest.raises(FileNotFoundError):
        exchange.exchange(tmp_path / "a", tmp_path / "absent")


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    file, folder = tmp_path / "f", tmp_path / "d"
    with temporaries.temporary_file(file) as (living, _):
        write_file(file, "other")
        assert living.exists()
    with temporaries.temporary_folder(folder) as living:
        make(folder, "other")
        assert living.is_dir()
    assert names(tmp_path) == ["d", "f"]


def test_files_of_other_names_are_never_taken_for_leftovers(tmp_path):
    others = [".a.json.tmp", ".b.json.abcdefgh.tmp", "a.json.abcdefgh.tmp", ".a.json.abc.x.tmp"]
    for name in others:
        (tmp_path / name).write_text("precious")
    write_file(tmp_path / "a.json", "")
    assert names(tmp_path) == sorted([*others, "a.json"])


def test_a_killed_report_does_not_keep_an_artifact_from_being_replaced(tmp_path):
    folder = tmp_path / "artifact"
    write_artifact(folder, residual_net(), profile())
    killed("os.fsync = die; files.write_file(target, 'half')", folder / "verify.json")
    assert any(name.endswith(".tmp") for name in names(folder))
    assert foreign_content(folder) is None
    with new_folder(folder, foreign=foreign_content) as new:
        (new / "manifest.json").write_text("")
    assert names(folder) == ["manifest.json"]


def test_a_damaged_manifest_does_not_keep_an_artifact_from_being_replaced(tmp_path):
    folder = tmp_path / "artifact"
    write_artifact(folder, residual_net(), profile())
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("0.25", "0.26"))
    assert foreign_content(folder) is None
    (folder / "notes.txt").write_text("precious")
    assert "notes.txt" in str(foreign_content(folder))


def test_scratch_of_a_killed_process_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = """
import tempfile
tempfile.tempdir = sys.argv[1]
with temporaries.scratch_folder() as folder:
    (folder / "float.onnx").write_text("large")
    die()
"""
    killed(code, tmp_path)
    (left,) = tmp_path.iterdir()
    with temporaries.scratch_folder() as folder:
        assert names(tmp_path) == [folder.name]
        assert folder != left
    assert names(tmp_path) == []


def test_several_files_are_written_all_or_none(tmp_path):
    (tmp_path / "subnet.json").write_text("old")
    (tmp_path / "f").write_text("a file where a folder should be")
    with pytest.raises(OutputError):
        write_files({tmp_path / "subnet.json": "new", tmp_path / "f" / "search.json": "new"})
    assert (tmp_path / "subnet.json").read_text() == "old"
    assert names(tmp_path) == ["f", "subnet.json"]


@pytest.mark.parametrize("present", [True, False])
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path, present):
    real, link = tmp_path / "disk" / "page.html", tmp_path / "page.html"
    real.parent.mkdir()
    if present:
        real.write_text("old")
    link.symlink_to("disk/page.html")
    write_file(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert names(real.parent) == ["page.html"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_file(pipe, "content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_full_device_is_one_line():
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OutputError, match="No space left") as caught:
        write_file(Path("/dev/full"), "content")
    assert "\n" not in str(caught.value)
