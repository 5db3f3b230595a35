"""How the neutral graph names its quantizers: the one writer and reader of these names.

A tensor T has a carrier, and a narrow form where layers read fewer bits. Each is a quantization
point `T.carrier` or `T.narrow`, made of the nodes `T.carrier.q`, `T.carrier.clip` where there is
a Clip, and `T.carrier.dq`.
"""

from __future__ import annotations

from typing import Literal

Role = Literal["carrier", "narrow"]
ROLES: tuple[Role, ...] = ("carrier", "narrow")
PARTS = {"QuantizeLinear": "q", "Clip": "clip", "DequantizeLinear": "dq"}


def point_name(tensor: str, role: Role) -> str:
    """The name of a quantization point."""
    return f"{tensor}.{role}"


def tensor_of(point: str) -> str:
    """The tensor of a quantization point."""
    return point.rpartition(".")[0]


def is_point(name: str) -> bool:
    """Whether a name is that of a quantization point."""
    return name.rpartition(".")[2] in ROLES


def part_name(point: str, op_type: str) -> str:
    """The name of the node of that type in a quantization point."""
    return f"{point}.{PARTS[op_type]}"


def point_of(quantize: str) -> str:
    """The quantization point that a QuantizeLinear of that name begins."""
    return quantize.removesuffix(f".{PARTS['QuantizeLinear']}")


def is_part(name: str, op_type: str) -> bool:
    """Whether a node of that name and type is part of a quantization point."""
    if op_type not in PARTS:
        return False
    suffix = f".{PARTS[op_type]}"
    return name.endswith(suffix) and is_point(name.removesuffix(suffix))
