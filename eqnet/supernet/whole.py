"""The one graph from which the graphs of all subnets of a profile can be cut."""

from __future__ import annotations

import onnx_ir as ir

from eqnet.latency.measure import Subject
from eqnet.latency.whole_graph import NARROW_BITS
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.scheme import CARRIER_BITS
from eqnet.spec.subnet import REMAINDER, SubnetSpec
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet


def whole_spec(target: Target) -> SubnetSpec:
    """A subnet with every quantizer there can be, and integers wherever the profile allows."""
    info, rules = target.info, target.profile
    widest = max(rules.bits)
    spec = target.uniform(widest)
    weights = {
        name: rules.weights.storage_bits if spec.weights[name] != REMAINDER else REMAINDER
        for name in info.layer_names()
    }
    return spec.model_copy(
        update={
            "weights": weights,
            "activations": dict.fromkeys([t.name for t in info.read_tensors()], NARROW_BITS),
            "carriers": dict.fromkeys([tensor.name for tensor in info.tensors], CARRIER_BITS),
        }
    )


def whole_graph(supernet: Supernet, target: Target) -> ir.Model:
    """The neutral graph of `whole_spec`, for `eqnet.latency.whole_graph.cut`."""
    return to_onnx(extract(supernet, whole_spec(target)), supernet.info.input_shape)


def subject_of(supernet: Supernet, rules: HardwareProfile, identity: str) -> Subject:
    """What `eqnet.latency` measures of a supernet. identity: the sha256 of its file."""
    target = Target.of(supernet.info, rules)
    return Subject(whole_graph(supernet, target), supernet.info, rules, identity)
