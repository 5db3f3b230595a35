"""Real processes of the command: pipes, full devices, closed streams, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from cli_tools import REPO, write_profile

from eqnet.cli.output import console, facts, table
from eqnet.spec.errors import without_controls

RUN = "from eqnet.cli.main import run; run()"
LIST = ["profiles", "list"]


def shell(
    redirection: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command under a shell that redirects its streams."""
    return subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" "$2" "$3" {redirection}', sys.executable, RUN, *arguments],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("extra", [[], ["--json"], ["--help"]])
def test_a_closed_pipe_is_quiet_and_141(extra: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", RUN, *LIST, *extra],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPO,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_characters_that_the_output_cannot_say_end_nothing() -> None:
    done = shell("", *LIST, PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "openvino_asym" in done.stdout


def test_closed_streams_end_nothing() -> None:
    assert shell(">&-", *LIST).returncode == 0
    done = shell("2>&-", "profiles", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert shell("<&- >&- 2>&-", *LIST).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_device_is_one_line_and_9() -> None:
    done = shell("> /dev/full", *LIST)
    assert done.returncode == 9
    assert done.stderr.count("\n") == 1
    assert "standard output: cannot write: No space left" in done.stderr
    assert shell("2> /dev/full", "profiles", "nonsense").returncode == 2


WAITING = """
import pathlib, sys, time
from eqnet.cli import main as module
from eqnet.backend.disk.temporaries import scratch_folder

def wait(*_, **__):
    with scratch_folder() as folder:
        print(folder, flush=True)
        time.sleep(60)

from eqnet.cli import app
app.app = wait
module.run()
"""


def heeding_interrupts() -> None:
    """In a child: an interrupt counts, also where the tests run in a shell's background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPO,
        preexec_fn=heeding_interrupts,
    )


def said(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_to_end_removes_temporary_folders(number: int, code: int) -> None:
    with started(WAITING) as process:
        folder = Path(said(process.stdout))
        assert folder.is_dir()
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == code
    assert not folder.exists()
    assert "Traceback" not in errors


INTERRUPTED_IMPORT = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from eqnet.cli.main import run
run()
"""


@pytest.mark.parametrize(
    "module", ["typer", "eqnet.cli.app", "eqnet.cli.commands.judging.bench", "rich"]
)
def test_an_interrupt_while_the_command_is_loaded_shows_no_traceback(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module],
        capture_output=True,
        text=True,
        cwd=REPO,
        check=False,
    )
    assert done.returncode in (130, 2)  # 2: the help, where that module is not needed for it
    assert "Traceback" not in done.stderr
    assert done.stdout == "" or done.returncode == 2


def test_what_ends_well_is_loaded_before_what_takes_long() -> None:
    code = (
        "import sys; before = set(sys.modules); import eqnet.cli.main; "
        "print(sorted({'typer', 'rich', 'typing', 're'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_no_control_character_of_a_text_reaches_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "a\x1b[2Jb\x9b31mc\x07 [bold]d[/bold]"
    rows = table(evil, [evil])
    rows.add_row(evil)
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = console()
    out.print(rows, facts({evil: evil}))
    out.print(evil, markup=False)
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert not set("\x9b\x07") & set(shown)
    assert shown.count("a?[2Jb") == 6  # title, column, cell, fact and its name, line


def test_no_control_character_of_an_error_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    from eqnet.cli.main import main

    profile = write_profile(tmp_path, "alpha")
    profile.write_text(profile.read_text().replace("lowbit", r'"\e[2J"'))
    assert main(["profiles", "validate", str(profile)]) == 3
    assert "\x1b" not in capsys.readouterr().err


def test_plain_text_stays_as_it_is() -> None:
    assert without_controls("Straße ✓\n\t…") == "Straße ✓\n\t…"
