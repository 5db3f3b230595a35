"""The `eqnet` command: from a process to its exit code.

Nothing is imported here before a Ctrl-C is caught, so that it never ends in a traceback.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130


class Terminated(SystemExit):
    """What a signal to end makes of a command, so that its temporary files are removed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. `arguments` defaults to those of the process."""
    try:
        from eqnet.cli.app import app

        result = app(args=arguments, prog_name="eqnet", standalone_mode=False)
        if result == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.stdout.flush()  # a closed pipe is found here and not at the interpreter's exit
    except BaseException as error:
        from eqnet.cli.failure import exit_code_of

        return exit_code_of(error)
    if isinstance(result, int):
        return result
    return 0


def run() -> None:
    """Entry point of the `eqnet` script."""
    try:
        code = _run()
    except KeyboardInterrupt:  # before a command has begun, or after its end
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


def _run() -> int:
    import atexit
    import gc
    import signal

    from eqnet.cli import streams

    streams.prepare()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, _terminate)
    # The interpreter's last collections go over all that a trace made: 1.3 s of an export.
    atexit.register(gc.freeze)
    code = main()
    streams.finish()
    return code


def _terminate(number: int, frame: object) -> None:
    raise Terminated(128 + number)
