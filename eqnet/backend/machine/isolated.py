"""What backends make of a stranger's file, each in a process of its own.

    python -m eqnet.backend.machine.isolated BACKEND MODEL LAYERS OUT BYTES

A runtime may end its process, fill the memory or never return on a damaged or hostile file; none
of that reaches the process that asks.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from eqnet.backend.discovery import find_exporter, is_registered
from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.backend.machine.processes import Process, limit_memory, start
from eqnet.backend.protocol import Inspects
from eqnet.spec.errors import EqnetError, MissingExtraError, one_line
from eqnet.spec.outside.inspection import BackendFinding, LayerForm
from eqnet.spec.outside.printable import printable

SECONDS = 300.0
# A runtime may hold a model's weights several times, beside buffers and the stacks of threads.
BASE_BYTES, TIMES_SIZE = 8 << 30, 8
Forms = TypeAdapter(list[LayerForm])
Shapes = TypeAdapter(dict[str, list[int | None]])


class Questions:
    """Everything that is asked about one file at once. Used as a context, which ends it all.

    model: the file; every layer has a name of its own there. size: its bytes with external data,
    which the memory of each process is limited by. seconds: that all may take together.
    """

    def __init__(self, model: Path, size: int, seconds: float = SECONDS) -> None:
        self._model, self._size = model, size
        self._end = time.monotonic() + seconds
        self._running: dict[str, Process] = {}
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Questions:
        self._scratch = self._resources.enter_context(scratch_folder())
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.end()
        self._resources.close()

    def ask_shapes(self, names: Iterable[str]) -> None:
        """Start to infer the shapes of the tensors of these names."""
        self._start("shapes", "eqnet.backend.graph.shapes", [], json.dumps(sorted(set(names))))

    def shapes(self) -> Mapping[str, Sequence[int | None]]:
        """The shapes that were found, for a batch of one; None for a free size."""
        process = self._running.get("shapes")
        if process is None or process.wait(self._end) is not None:
            return {}
        return Shapes.validate_json(process.out.read_bytes())

    def ask(self, names: Sequence[str], layers: Sequence[LayerForm]) -> None:
        """Start to ask these backends."""
        forms = Forms.dump_json(list(layers)).decode()
        for name in names:
            if not is_registered(name):  # which no other process would find
                self._start(f"backend.{name}", __name__, [name], forms)

    def finding(self, name: str, layers: Sequence[LayerForm]) -> BackendFinding:
        """What one backend answered. Nothing that a runtime does raises anything here."""
        process = self._running.get(f"backend.{name}")
        if process is None:
            return inspect_here(name, self._model, layers)
        problem = process.wait(self._end)
        if problem is None:
            try:
                return BackendFinding.model_validate_json(process.out.read_bytes())
            except ValidationError:
                problem = "its answer is damaged"
        return _without(name, "failed", problem)

    def _start(self, key: str, module: str, first: list[str], content: str) -> None:
        if not sys.executable:  # an interpreter inside of another program
            return
        most = BASE_BYTES + TIMES_SIZE * self._size
        given, out = self._scratch / f"{key}.in.json", self._scratch / f"{key}.out.json"
        given.write_text(content, encoding="utf-8")
        arguments = [*first, str(self._model), str(given), str(out), str(most)]
        self._running[key] = start(module, arguments, out)


def inspect_here(name: str, model: Path, layers: Sequence[LayerForm]) -> BackendFinding:
    """The finding of one backend, in this process; what it raises becomes a verdict."""
    try:
        exporter = find_exporter(name)
        if not isinstance(exporter, Inspects):
            reason = "this exporter has no 'inspect' (docs/writing-an-exporter.md)"
            return _without(name, "skipped", reason)
        return exporter.inspect(model, layers)
    except (MissingExtraError, ImportError) as error:
        return _without(name, "skipped", one_line(error))
    except EqnetError as error:
        return _without(name, "refused", one_line(error))
    except MemoryError:
        return _without(name, "failed", "it ran out of memory")
    except Exception as error:  # a runtime's own, of any class
        return _without(name, "failed", f"unexpected {type(error).__name__}: {one_line(error)}")


def _without(name: str, verdict: str, reason: str) -> BackendFinding:
    said = {"backend": name, "verdict": verdict, "reason": printable(reason, 400)}
    return BackendFinding.model_validate(said)


def main(arguments: Sequence[str]) -> int:
    """What the process of one backend does; its exit code."""
    name, model, layers, out, most = arguments
    limit_memory(int(most))
    forms = Forms.validate_json(Path(layers).read_bytes())
    finding = inspect_here(name, Path(model), forms)
    Path(out).write_text(finding.model_dump_json(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
