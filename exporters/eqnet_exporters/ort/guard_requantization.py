"""Keep ONNX Runtime from merging an 8-bit carrier with an 8-bit requantization after it.

ONNX Runtime replaces ``Q1 -> DQ1 -> Q2 -> DQ2`` by one pair with a scale of its own making,
which is another function (logits moved by several steps), and the Conv after it may fall to
float. A Clip over the whole range of the storage type, which changes nothing, ends the pattern.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.reading import STORAGE, quantizer_of, quantizers
from eqnet_exporters.passes._build import insert_clip
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, rewrite


@rewrite(RANGES, TYPES)
def guard_requantization(model: ir.Model) -> Notes:
    """Give quantizers without a Clip that read another quantizer a full-range Clip, in place."""
    for quantizer in quantizers(model):
        before = quantizer_of(quantizer.source)
        if before is not None and before.clip is None and quantizer.clip is None:
            insert_clip(quantizer, *STORAGE[quantizer.dtype])
            yield changed(quantizer.quantize, "a Clip keeps ONNX Runtime from merging it")
