"""Why a layer of anybody's graph is not int8, as far as every target would say it; and what to do.

What only one target minds is beside that target's `inspect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from eqnet.spec.errors import EqnetError
from eqnet.spec.outside.inspection import BITS_OF_INT8, LayerFinding, LayerForm, TensorForm
from eqnet.spec.outside.printable import printable

SHOWN = 3


def said_of(path: Path, error: EqnetError) -> str:
    """What a runtime says of a file, safe to print and without the file's folder."""
    return printable(str(error).removeprefix(f"{path}: ").replace(str(path), path.name), 400)


class Why(NamedTuple):
    """A reason, and what a user can do about it."""

    reason: str
    remedy: str


Rule = Callable[[LayerForm], Why | None]


def findings(
    layers: Sequence[LayerForm], int8: Iterable[str], rules: Sequence[Rule], otherwise: Why
) -> tuple[LayerFinding, ...]:
    """One finding for each layer: int8 where it is named, else the first rule that applies."""
    proved = set(int8)
    return tuple(
        LayerFinding(name=layer.name, precision="int8")
        if layer.name in proved
        else in_float(layer, first_of(layer, rules) or otherwise)
        for layer in layers
    )


def in_float(layer: LayerForm, why: Why) -> LayerFinding:
    """The finding of a layer that is computed in float."""
    return LayerFinding(name=layer.name, precision="float", reason=why.reason, remedy=why.remedy)


def first_of(layer: LayerForm, rules: Sequence[Rule]) -> Why | None:
    """What the first rule that applies to a layer says."""
    for rule in rules:
        why = rule(layer)
        if why is not None:
            return why
    return None


def incomplete(profile: str) -> Rule:
    """Layers that the file itself leaves in float, in part or wholly.

    profile: of eqnet, that would quantize them for this target.
    """

    def rule(layer: LayerForm) -> Why | None:
        if layer.form == "float" and layer.kind == "product":
            return Why(
                "it multiplies two activations, and neither has a quantizer",
                "leave it in float: attention loses accuracy in 8 bits; or quantize both operands",
            )
        if layer.form == "float":
            return Why(
                "the file does not quantize it: no quantizer at its input, float weights",
                f"eqnet quantize --profile {profile} on the float network, or list the layer in "
                "your tool's nodes to quantize",
            )
        if layer.form == "weights only":
            return _float_input(layer)
        if layer.form == "activations only":
            return Why(
                "its input has a quantizer, its weights are float",
                "quantize its weights too: int8 behind a DequantizeLinear",
            )
        return None

    return rule


def _float_input(layer: LayerForm) -> Why:
    if layer.input_via:
        between = ", ".join(layer.input_via[:SHOWN])
        return Why(
            f"{between} between the quantizer and its input: they are not adjacent",
            "put QuantizeLinear and DequantizeLinear directly before the layer",
        )
    made = f", which {layer.producer} makes" if layer.producer else ""
    return Why(
        f"no quantizer at its input{made}; only its weights are integers",
        "quantize that tensor too: QuantizeLinear and DequantizeLinear directly before the layer",
    )


def not_8_bits(layer: LayerForm) -> Why | None:
    """Integers of another width than 8 bits have no fast kernels on any of these targets."""
    for what, form in (("weights", layer.weight), ("activations", layer.input)):
        if form is not None and not form.is_8_bit_integer:
            return Why(
                f"{what} are {form.type}, and there are integer kernels for 8 bits alone",
                f"store them in an 8-bit container: {BITS_OF_INT8 - form.bits} bits to the left, "
                "the scale smaller by as much (eqnet's profiles with bits below 8 do)"
                if 0 < form.bits < BITS_OF_INT8
                else f"quantize the {what} to int8 or uint8",
            )
    return None


def activations_by_channel(layer: LayerForm) -> Why | None:
    """An activation with several scales cannot be factored out of a layer's sums."""
    if layer.input is not None and layer.input.granularity != "per_tensor":
        return Why(
            f"its input has scales along axis {layer.input.axis}",
            "one scale for the whole activation; scales for each channel are for weights alone",
        )
    return None


def weights_by_block(layer: LayerForm) -> Why | None:
    """Scales for blocks of weights are a storage form."""
    if layer.weight is not None and layer.weight.granularity == "per_block":
        return Why(
            "its weights have a scale for each block, which is a form of storage",
            "one scale for each output channel",
        )
    return None


def axis_of_outputs(layer: LayerForm) -> Why | None:
    """Weights' scales must lie along the output channels."""
    form = layer.weight
    if form is None or form.granularity != "per_channel" or layer.op not in ("Conv", "MatMul"):
        return None
    wanted = 0 if layer.op == "Conv" else 1
    if form.axis in (wanted, None) or (form.axis is not None and form.axis < 0):
        return None
    return Why(
        f"its weights' scales lie along axis {form.axis}",
        f"scales along axis {wanted}, the output channels",
    )


def nonzero(form: TensorForm | None) -> bool:
    """Whether a tensor has a zero-point other than 0."""
    return form is not None and form.zero_point != 0


COMMON: tuple[Rule, ...] = (
    not_8_bits,
    weights_by_block,
    activations_by_channel,
    axis_of_outputs,
)
