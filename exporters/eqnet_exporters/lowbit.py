"""Low-bit accelerators: QCDQ (Quantize, Clip, Dequantize) of 2 to 8 bits, as plain ONNX.

The graph says for every tensor which integers it may hold; ONNX Runtime executes those very
integers in 8-bit containers, which verifies the accuracy that the accelerator will have. Its
latency is the accelerator's own, so latency here says nothing about it.
"""

from __future__ import annotations

from eqnet.backend.capabilities import capability_refusals
from eqnet.backend.protocol import Capabilities
from eqnet.spec.profile import HardwareProfile
from eqnet.spec.scheme import BITS, Granularity, Symmetry
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter


class LowBitExporter(OnnxRuntimeExporter):
    """The ONNX Runtime exporter with the bits and forms of a custom accelerator."""

    name = "lowbit"
    capabilities = Capabilities(
        weight_granularities=frozenset(Granularity),
        weight_symmetries=frozenset(Symmetry),
        activation_symmetries=frozenset(Symmetry),
        storages=frozenset({"uint8", "int8"}),
        min_bits=BITS[0],
        remainders=frozenset({"float32"}),
    )

    def refusals(self, profile: HardwareProfile) -> list[str]:
        """Only what the form itself cannot say; ONNX Runtime's speed is no concern here."""
        return capability_refusals(profile, self.capabilities)
