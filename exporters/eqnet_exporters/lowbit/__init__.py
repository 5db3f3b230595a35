"""Custom low-bit accelerators: QCDQ, QONNX, bit-packed weights and integer-only programs."""

from eqnet_exporters.lowbit.exporter import LowBitExporter

__all__ = ["LowBitExporter"]
