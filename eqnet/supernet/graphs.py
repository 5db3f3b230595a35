"""The neutral graphs of a supernet's subnets, for all of which its network is exported once."""

from __future__ import annotations

import onnx_ir as ir
from torch import fx

from eqnet.qdq.specialize import TemplateError, specialize
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet

# Bits that differ and that both need a Clip, of a template's carriers and activations.
CARRIER, NARROW = 7, 4


class Graphs:
    """What `to_onnx` gives for each subnet, an order of magnitude sooner from the second on."""

    def __init__(self, supernet: Supernet) -> None:
        self._supernet = supernet
        self._template: ir.Model | None = None

    def of(self, spec: SubnetSpec, net: fx.GraphModule | None = None) -> ir.Model:
        """The graph of a subnet, with the statistics that are in force.

        net: what `extract` gave of it, where that is at hand. Raises CaptureError when an
        operator of the network has no ONNX form.
        """
        shape = self._supernet.info.input_shape
        if self._template is None:
            self._template = to_onnx(extract(self._supernet, self._everything(spec)), shape)
        if net is None:
            net = extract(self._supernet, spec)
        try:
            return specialize(self._template, net)
        except TemplateError:
            return to_onnx(net, shape)

    def _everything(self, spec: SubnetSpec) -> SubnetSpec:
        """The subnet with every quantizer that the network can have."""
        info = self._supernet.info
        return spec.model_copy(
            update={
                "weights": dict.fromkeys(info.layer_names(), spec.weight_storage_bits),
                "carriers": {tensor.name: CARRIER for tensor in info.tensors},
                "activations": {tensor.name: NARROW for tensor in info.read_tensors()},
            }
        )
