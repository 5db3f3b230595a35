import hashlib
import os

import pytest
from artifacts import profile, write_artifact
from graphs import residual_net

from eqnet.backend.artifact import foreign_content
from eqnet.backend.files import new_folder, sha256_file, write_file
from eqnet.spec.errors import OutputError


def test_sha256_of_a_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 3_000_000)
    assert sha256_file(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_write_file_makes_parents_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_file(path, "old")
    write_file(path, "neü")
    assert path.read_text(encoding="utf-8") == "neü"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_write_file_has_the_permissions_of_a_plain_file(tmp_path):
    write_file(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_write_file_where_a_parent_is_a_file(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputError, match="cannot write") as caught:
        write_file(tmp_path / "f" / "g", b"1")
    assert "\n" not in str(caught.value)


def test_write_file_onto_a_folder_leaves_no_temporary(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(OutputError):
        write_file(tmp_path / "d", b"1")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_write_file_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_file(tmp_path / "f", b"1")


def nothing(folder):
    """Nothing in the folder is foreign."""
    return


def test_new_folder_appears_only_when_complete(tmp_path):
    target = tmp_path / "out" / "artifact"
    with new_folder(target) as folder:
        (folder / "manifest.json").write_text("1")
        assert not target.exists()
    assert (target / "manifest.json").read_text() == "1"
    assert [p.name for p in target.parent.iterdir()] == ["artifact"]


def test_new_folder_is_undone_by_an_exception_and_keeps_the_old(tmp_path):
    target = tmp_path / "artifact"
    with new_folder(target) as folder:
        (folder / "manifest.json").write_text("old")

    def fail_half_way() -> None:
        with new_folder(target, foreign=nothing) as folder:
            (folder / "manifest.json").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert (target / "manifest.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_new_folder_replaces_an_artifact_whole(tmp_path):
    target = tmp_path / "artifact"
    for name in ("one", "two"):
        with new_folder(target, foreign=nothing) as folder:
            (folder / "manifest.json").write_text("")
            (folder / name).write_text("")
    assert {p.name for p in target.iterdir()} == {"manifest.json", "two"}


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_a_folder_that_is_no_artifact_is_never_replaced(tmp_path, name):
    home = tmp_path / "home"
    home.mkdir()
    (home / name).write_text('{"name": "PWA"}')
    with (
        pytest.raises(OutputError, match="a folder with other content"),
        new_folder(home, foreign=foreign_content),
    ):
        pass
    assert (home / name).read_text() == '{"name": "PWA"}'


def test_an_artifact_with_a_users_file_in_it_is_not_replaced(tmp_path):
    folder = tmp_path / "a"
    write_artifact(folder, residual_net(), profile())
    (folder / "verify.json").write_text("{}")
    assert foreign_content(folder) is None
    (folder / "baseline.json").write_text("precious")
    with (
        pytest.raises(OutputError, match=r"'baseline\.json'"),
        new_folder(folder, foreign=foreign_content),
    ):
        pass
    assert (folder / "baseline.json").read_text() == "precious"


def test_new_folder_never_replaces_other_content(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with (
        pytest.raises(OutputError, match="a folder with other content"),
        new_folder(tmp_path / "home"),
    ):
        pass
    assert (tmp_path / "home" / "thesis.txt").read_text() == "precious"


def test_new_folder_where_a_file_is(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputError, match="a file"), new_folder(tmp_path / "f"):
        pass
    with pytest.raises(OutputError), new_folder(tmp_path / "f" / "g"):
        pass


def test_new_folder_leaves_errors_about_other_files_alone(tmp_path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "out"):
        (tmp_path / "absent").read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("absolute", [True, False])
def test_new_folder_replaces_what_a_link_points_to_and_keeps_the_link(tmp_path, absolute):
    place = tmp_path / "disk" / "artifact"
    place.mkdir(parents=True)
    (place / "old").write_text("")
    link = tmp_path / "link"
    link.symlink_to(place if absolute else "disk/artifact")
    with new_folder(link, foreign=nothing) as folder:
        (folder / "new").write_text("")
    assert link.is_symlink()
    assert [path.name for path in link.iterdir()] == ["new"]
    assert [path.name for path in place.parent.iterdir()] == ["artifact"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_new_folder_where_a_link_leads_nowhere(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(OutputError, match="a file"), new_folder(tmp_path / "link"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
