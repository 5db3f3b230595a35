"""Run OpenVINO models in fresh processes that `ONEDNN_MAX_CPU_ISA` limits, as other CPUs are.

OpenVINO reads the variable once, so each instruction set has a process of its own. As a script,
``python instruction_sets.py FOLDER...`` runs every model below folders and writes what it gave.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eqnet.backend.machine.isa import Cpu, onednn_cpu

if TYPE_CHECKING:
    from eqnet.spec.hardware.profile import HardwareProfile

SWITCH = "ONEDNN_MAX_CPU_ISA"
# Value of the switch, and what the names of its int8 kernels contain.
SETS = {"AVX2": "avx2", "AVX2_VNNI": "avx2", "AVX512_CORE": "avx512"}
MODEL, IMAGES, PROFILE, RESULT = "model.onnx", "images.npy", "profile.json", "result.json"


@dataclass(frozen=True)
class Ran:
    """What a process gave under the switch's value `instructions`.

    logits: folder's name -> float32 [N, classes]. kernels: names of the int8 primitives.
    """

    instructions: str
    logits: dict[str, np.ndarray]
    kernels: tuple[str, ...]

    @property
    def cpu(self) -> Cpu:
        """What oneDNN uses of this CPU there."""
        return cpu_under(self.instructions)

    def not_its_own(self) -> str | None:
        """What ran instead of the instruction set's own kernels, on a CPU that lacks it."""
        lacks = f"{', '.join(self.kernels)} ran: this CPU has no {self.instructions}"
        if not any(SETS[self.instructions] in name for name in self.kernels):
            return lacks
        return lacks if "VNNI" in self.instructions and self.cpu.adds_in_16_bits() else None


def environment(instructions: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", SWITCH: instructions}


def cpu_under(instructions: str) -> Cpu:
    """What oneDNN uses of this CPU under a value of the switch."""
    return onednn_cpu(environment={SWITCH: instructions})


def run_under(instructions: str, *folders: Path) -> Ran:
    """Run every model below the folders in a fresh process; AssertionError with its last words."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(instructions),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    logits = {name: np.array(rows, np.float32) for name, rows in result["logits"].items()}
    return Ran(instructions, logits, tuple(result["kernels"]))


def kernels_of(model: Path, profile: HardwareProfile) -> set[str]:
    """The int8 primitives of a compiled model, by OpenVINO's own names."""
    from eqnet_exporters.ov import run as ov_run

    compiled = ov_run.compile_model(model, ov_run.Setting.of(profile, threads=1))
    found = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        primitive = info.get("primitiveType", "")
        if info.get("layerType") == "Convolution" and primitive.endswith("_I8"):
            found.add(primitive)
    return found


def main(folders: list[Path]) -> None:
    from eqnet_exporters.openvino import OpenVinoExporter

    from eqnet.spec.hardware.profile import HardwareProfile

    logits, kernels = {}, set()
    for model in sorted(path for folder in folders for path in folder.glob(f"*/{MODEL}")):
        case = model.parent
        profile = HardwareProfile.model_validate_json((case / PROFILE).read_bytes())
        run = OpenVinoExporter().open(model, threads=1, profile=profile)
        logits[case.name] = run(np.load(case / IMAGES)).tolist()
        kernels |= kernels_of(model, profile)
    json.dump({"logits": logits, "kernels": sorted(kernels)}, sys.stdout)


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
