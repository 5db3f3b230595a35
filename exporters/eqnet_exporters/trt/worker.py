"""Building several engines at once, half of them in a second process.

    python -m eqnet_exporters.trt.worker MODEL OUT LEAST BEST MOST TARGET...

TensorRT for RTX fails when two threads of one process build for different compute capabilities
(seen: 1.7), so the second process is a process. It writes OUT/TARGET.engine and OUT/TARGET.log,
or one line on stderr.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eqnet.backend.disk.temporaries import scratch_folder
from eqnet.spec.errors import EqnetError, one_line
from eqnet_exporters.trt import build as trt_build
from eqnet_exporters.trt.build import Engine, EngineBatches

# Below this a second process takes longer to start than it saves.
WORTHWHILE_BYTES = 8 << 20


def build_all(
    trt: Any, model: Path, targets: Sequence[str], batches: EngineBatches
) -> list[Engine]:
    """An engine for each target, in their order. Raises EqnetError as `trt_build.build` does."""
    onnx = model.read_bytes()
    others = _for_the_worker(targets, len(onnx))
    engines: dict[str, Engine] = {}
    with scratch_folder() as scratch:
        worker = _start(model, scratch, batches, others) if others else None
        try:
            for target in targets:
                if target not in others:
                    engines[target] = trt_build.build(trt, onnx, target=target, batches=batches)
            if worker is not None:
                engines |= _collect(worker, scratch, others)
        finally:
            if worker is not None:
                worker.kill()
                worker.wait()
    return [engines[target] for target in targets]


def _for_the_worker(targets: Sequence[str], size: int) -> tuple[str, ...]:
    """The targets of the second process, none where it would save nothing.

    size: of the model, in bytes.
    """
    worthwhile = len(targets) > 1 and (os.cpu_count() or 1) > 1 and size >= WORTHWHILE_BYTES
    if worthwhile and sys.executable:
        return tuple(targets[1::2])
    return ()


def _start(
    model: Path, out: Path, batches: EngineBatches, targets: Sequence[str]
) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        __name__,
        str(model),
        str(out),
        *map(str, batches),
        *targets,
    ]
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(  # noqa: S603  # this interpreter, arguments of our own
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _collect(worker: subprocess.Popen[str], out: Path, targets: Sequence[str]) -> dict[str, Engine]:
    _, said = worker.communicate()
    if worker.returncode != 0:
        lines = said.strip().splitlines() or [f"it ended with code {worker.returncode}"]
        raise EqnetError(f"building for {', '.join(targets)} failed: {lines[-1]}")
    engines = {}
    for target in targets:
        plan = (out / f"{target}.engine").read_bytes()
        log = (out / f"{target}.log").read_text(encoding="utf-8")
        engines[target] = Engine(target, plan, log)
    return engines


def main(arguments: Sequence[str]) -> int:
    """What the second process does; its exit code."""
    model, out, least, best, most, *targets = arguments
    batches = EngineBatches(int(least), int(best), int(most))
    try:
        trt, onnx = trt_build.find_tensorrt(), Path(model).read_bytes()
        for target in targets:
            engine = trt_build.build(trt, onnx, target=target, batches=batches)
            (Path(out) / f"{target}.engine").write_bytes(engine.plan)
            (Path(out) / f"{target}.log").write_text(engine.log, encoding="utf-8")
    except (EqnetError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
