"""The benchmarks of reliability find what they are there to find, and accept what is whole."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2] / "benchmarks" / "reliability"


@pytest.fixture(scope="module")
def fuzz():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HOME))
        import fuzz

        yield fuzz


def names_of_readers():
    texts = [path.read_text() for path in sorted(HOME.glob("read_*.py"))]
    tables = [text[text.rindex("Make] = {") :] for text in texts]
    return [line.split('"')[1] for table in tables for line in table.splitlines() if '": ' in line]


@pytest.mark.parametrize("name", names_of_readers())
def test_every_reader_accepts_what_is_whole_and_survives_a_little_damage(fuzz, tmp_path, name):
    if name == "artifact files":
        pytest.importorskip("openvino")
    assert set(fuzz.READERS) == set(names_of_readers())
    reader = fuzz.READERS[name](tmp_path)
    whole = []
    for number in range(4):
        reader.spoil(fuzz.Whole(number))
        whole.append(reader.read())
    for number in range(5):
        reader.spoil(random.Random(f"test/{name}/{number}"))
        assert fuzz.outcome(reader, whole) in fuzz.FINE


@pytest.mark.parametrize(
    ("read", "hashed", "told"),
    [
        (lambda: 1 / 0, False, "ZeroDivisionError"),
        (lambda: bytearray(3 << 30), False, "MemoryError"),
        (lambda: "damaged", True, "damaged content accepted"),
        (lambda: "whole", True, "accepted"),
        (lambda: "damaged", False, "accepted"),
    ],
)
def test_a_fault_of_a_reader_is_told(fuzz, read, hashed, told):
    from readers import Reader

    assert fuzz.outcome(Reader(lambda rng: None, read, hashed), ["whole"]).startswith(told)


def test_a_message_that_is_not_one_line_is_a_fault(fuzz):
    from readers import Reader

    from eqnet.spec.errors import ArtifactError

    def raising(text):
        def read():
            raise ArtifactError(text)

        return Reader(lambda rng: None, read)

    assert fuzz.outcome(raising("one line"), []) == "refused"
    for text in ("two\nlines", "x" * 2000):
        assert fuzz.outcome(raising(text), []).startswith("message: ")


def test_a_log_goes_on_where_it_was(fuzz, tmp_path):
    path = tmp_path / "log.jsonl"
    for count in (10, 25):
        log = fuzz.Log(path, seed=3)
        fuzz.run("verify.json", count, log, None)
        assert log.done("verify.json") == count
    once = fuzz.Log(None, seed=3)
    fuzz.run("verify.json", 25, once, None)
    assert fuzz.Log(path, seed=3).found == once.found
    assert fuzz.Log(path, seed=4).done("verify.json") == 0


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {home!r})
import forks
from eqnet.backend.files import new_folder, write_file

scratch, target = Path(sys.argv[1]) / "scratch", Path(sys.argv[1]) / "target"
scratch.mkdir()

def well():
    write_file(target, "new" * 1000)
    return 0

def badly():
    with target.open("w") as file:
        file.write("new" * 500)
        file.flush()
        forks.os.fsync(file.fileno())
        file.write("new" * 500)
    return 0

def after(run, point):
    target.write_text("old")
    ended = forks.Started(run, scratch, point).wait()
    left = [path for path in target.parent.iterdir() if path.name.startswith(".")]
    return ended, target.read_text() in ("old", "new" * 1000), left

for run in (well, badly):
    whole, fine, left = after(run, None)
    assert whole.code == 0 and fine and not left, (whole, left)
    killed, broken, temporaries = 0, 0, 0
    for number in range(len(whole.calls)):
        for side in (False, True):
            ended, fine, left = after(run, forks.Point(number, side))
            killed += ended.killed
            broken += not fine
            temporaries += bool(left)
            well()
    print(run.__name__, ",".join(whole.calls), killed, broken, temporaries)
    assert not [path for path in target.parent.iterdir() if path.name.startswith(".")]
"""


def test_every_rename_point_is_met_from_both_sides_and_a_half_file_is_found(tmp_path):
    command = [sys.executable, "-c", SCRIPT.format(home=str(HOME)), str(tmp_path)]
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    well, badly = (line.split() for line in done.stdout.splitlines())
    calls = well[1].split(",")
    assert "replace" in calls
    assert int(well[2]) == 2 * len(calls)
    assert well[3] == "0"
    # Killed between making its temporary and renaming it, it leaves one: the harness sees it.
    assert int(well[4]) > 0
    assert badly[1:] == ["fsync", "2", "2", "0"]


def test_a_run_that_hangs_is_ended(tmp_path):
    script = (
        f"import sys, time; sys.path.insert(0, {str(HOME)!r})\n"
        "from pathlib import Path\nimport forks\nforks.LATE = 0.2\n"
        "try:\n    forks.Started(lambda: time.sleep(60), Path(sys.argv[1]), None).wait()\n"
        "except TimeoutError as error:\n    print(error)\n"
    )
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=50,
    )
    assert "more than 0.2 seconds" in done.stdout
    assert done.returncode != -signal.SIGKILL
