"""Low-bit accelerators: one network in every form that their toolchains read.

``model.onnx`` is QCDQ (Quantize, Clip, Dequantize) in plain ONNX. It says for every tensor which
integers it may hold; ONNX Runtime executes those very integers in 8-bit containers, which
verifies the accuracy that the accelerator will have. Its latency is the accelerator's own, so
latency here says nothing about it. Beside it lie QONNX, the weights in as many bits as they
have, and a program of integers alone: see `eqnet_exporters.lowbit.files`.
"""

from __future__ import annotations

from pathlib import Path

from eqnet.backend.artifact import Parity
from eqnet.backend.capabilities import capability_refusals
from eqnet.backend.lowbit.integer import INTEGER, PACKED
from eqnet.backend.protocol import Capabilities, HostLimit
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import BuildReport
from eqnet.spec.reports import Check
from eqnet.spec.scheme import BITS, Granularity, Symmetry
from eqnet_exporters.lowbit.checks import file_checks
from eqnet_exporters.lowbit.files import PACKED_ONNX, QONNX, describe, write_files
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter


class LowBitExporter(OnnxRuntimeExporter):
    """The ONNX Runtime exporter with the bits and forms of a custom accelerator."""

    name = "lowbit"
    own_files = (QONNX, PACKED_ONNX, PACKED, INTEGER)
    capabilities = Capabilities(
        weight_granularities=frozenset(Granularity),
        weight_symmetries=frozenset(Symmetry),
        activation_symmetries=frozenset(Symmetry),
        storages=frozenset({"uint8", "int8"}),
        min_bits=BITS[0],
        remainders=frozenset({"float32"}),
    )

    # An accelerator has no runtime here that could be asked what it makes of a stranger's file.
    inspect = None  # type: ignore[assignment]

    def refusals(self, profile: HardwareProfile) -> list[str]:
        """Only what the form itself cannot say; ONNX Runtime's speed is no concern here."""
        return capability_refusals(profile, self.capabilities)

    def host_limit(self, profile: HardwareProfile) -> HostLimit | None:
        """None: what runs here is exact, and its speed is not the target's anyhow."""
        return None

    def finish(self, folder: Path, profile: HardwareProfile) -> list[str]:
        """Write ``model.qonnx.onnx``, ``model.packed.onnx``, ``weights.eqpack`` and, where the
        network has integer ops alone, ``integer.json``."""
        return write_files(folder)

    def build_report(self, folder: Path) -> BuildReport:
        """The packed size, and why there is no integer program if there is none."""
        return describe(folder)

    def extra_checks(self, folder: Path, parity: Parity) -> list[Check]:
        """Checks of those files against ``reference.onnx`` and PyTorch's logits."""
        return file_checks(folder, parity)
