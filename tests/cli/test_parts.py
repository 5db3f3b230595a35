"""The parts of the command line: how a process ends, the parsers, the progress bars."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import REPO, one_line

from eqnet.cli import progress as bars
from eqnet.cli.failure import exit_code_of, missing_extra
from eqnet.cli.options import (
    parse_batches,
    parse_bits,
    parse_budgets,
    parse_form,
    parse_names,
    parse_percent,
)
from eqnet.spec.errors import CheckpointError, UsageError
from eqnet.spec.hardware.profile import BUDGETS


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process of the command."""
    return subprocess.run(
        [sys.executable, "-c", "from eqnet.cli.main import run; run()", *arguments],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={**os.environ, **environment},
        check=False,
    )


def test_process_ends_in_one_line_without_traceback(tmp_path: Path) -> None:
    done = process("verify", str(tmp_path / "none"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (6, "", 1)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = process("verify", str(tmp_path / "none"), EQNET_DEBUG="1")
    assert done.returncode == 6
    assert "Traceback" in done.stderr


def test_closed_pipe_is_quiet() -> None:
    script = "from eqnet.cli.main import run; run()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", script, "profiles", "list", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPO,
        check=False,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode in (1, 141)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (CheckpointError("a\nb"), 4, "error: a b"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 10, "eqnet[train]"),
        (ModuleNotFoundError("x", name="openvino.runtime"), 10, "eqnet[openvino]"),
        (ModuleNotFoundError("x", name="unheard_of"), 1, "unexpected ModuleNotFoundError"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied"),
        (ValueError("odd\nthing"), 1, "unexpected ValueError: odd thing"),
    ],
)
def test_exceptions_become_a_line_and_a_code(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(error) == code
    assert told in one_line(capsys)


def test_import_errors_inside_a_package_are_not_a_missing_extra() -> None:
    assert missing_extra(ImportError("cannot import name 'x' from 'torch'", name="torch")) is None


def test_parsers_accept_every_allowed_spelling() -> None:
    assert parse_bits("W2a8") == (2, 8)
    assert parse_form("per_tensor:asymmetric", "symmetric").label() == (
        "per_tensor:asymmetric/symmetric"
    )
    assert parse_form("per_channel", "asymmetric").weight_symmetry == "symmetric"
    assert parse_budgets([f"{name}=2.5" for name in BUDGETS]) == dict.fromkeys(BUDGETS, 2.5)
    assert parse_percent("--x", "5%") == pytest.approx(0.05)
    assert parse_percent("--x", "0.05") == pytest.approx(0.05)
    assert parse_batches(None) is None
    assert parse_batches("8") == [8]
    assert parse_batches("1, 8,32") == [1, 8, 32]
    assert parse_names("--x", None, ["a", "b"]) == ["a", "b"]
    assert parse_names("--x", "b, a,b", ["a", "b"]) == ["b", "a"]
    with pytest.raises(UsageError, match="did you mean 'alpha'"):
        parse_names("--x", "alpah", ["alpha"])


BATCHES = ["", "0", "1025", "1,", "1,1", "1;8", "-1", "8.0", "\u0661", "9" * 99]


@pytest.mark.parametrize("text", BATCHES)
def test_batches_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--batch: found '.*' \(allowed: 1 to 1024, or several"):
        parse_batches(text)


def test_progress_on_a_log_is_two_lines_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    with bars.progress() as listener:
        listener.start("searching", 3)
        listener.advance(2, loss=0.51234)
        listener.advance()
        listener.finish()
    assert capsys.readouterr().err == "searching: 0/3\nsearching: done (3)  loss=0.5123\n"


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bars.progress(quiet=True) as listener:
        listener.start("searching", None)
        listener.advance()
        listener.finish()
    assert capsys.readouterr().err == ""


def test_bar_counts_and_fills() -> None:
    from rich.progress import Progress

    with Progress(disable=True) as rich:
        bar = bars.Bar(rich)
        bar.advance()  # before a start there is nothing to move
        bar.start("known", 4)
        bar.advance(3, loss=1.0)
        assert rich.tasks[0].completed == 3
        assert rich.tasks[0].fields["info"] == "loss=1"
        bar.finish()
        bar.start("unknown", None)
        bar.finish()
        assert all(task.finished for task in rich.tasks)
