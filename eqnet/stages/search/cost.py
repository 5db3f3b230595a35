"""Cost models that are sums over layers: what a subnet costs without running it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eqnet.spec.errors import ProfileError
from eqnet.spec.profile import CostModel, HardwareProfile
from eqnet.spec.subnet import REMAINDER, SubnetSpec
from eqnet.subnets.budgets import REMAINDER_BITS, size_kib
from eqnet.subnets.network import LayerInfo, NetworkInfo

UNITS = {
    "measured": "ms",
    "lookup": "ms",
    "roofline": "ms (roofline estimate)",
    "bitops": "G bit-operations",
    "size": "KiB",
    "bit_serial": "M cycles",
}
# A day: what is longer, or infinite, is a mistake in a lookup table.
MAX_MILLISECONDS = 86_400_000

Cost = Callable[[SubnetSpec], float]


def analytic_cost(info: NetworkInfo, profile: HardwareProfile, folder: Path) -> Cost:
    """The cost function of a profile whose cost model needs no runtime.

    folder: where the profile's lookup table lies. Raises ProfileError for a bad table.
    """
    wide = REMAINDER_BITS[profile.remainder]
    model = profile.cost

    def widths(spec: SubnetSpec, layer: LayerInfo) -> tuple[int, int]:
        choice = spec.weights[layer.name]
        if choice == REMAINDER:
            return wide, wide
        return int(choice), spec.activations[layer.input]

    if model.model == "size":
        return lambda spec: size_kib(info, spec, wide)
    if model.model == "lookup":
        table = load_table(folder / str(model.table), info)
        return lambda spec: sum(_looked_up(table, layer, spec) for layer in info.layers)
    one = {"bitops": _bitops, "bit_serial": _bit_serial, "roofline": _roofline}[model.model]
    return lambda spec: sum(one(model, info, layer, *widths(spec, layer)) for layer in info.layers)


def _bitops(model: CostModel, info: NetworkInfo, layer: LayerInfo, w: int, a: int) -> float:
    """Multiply-adds x weight bits x activation bits, in billions."""
    return layer.macs * w * a / 1e9


def _bit_serial(model: CostModel, info: NetworkInfo, layer: LayerInfo, w: int, a: int) -> float:
    """Millions of cycles of a rows x columns array that multiplies one bit by one bit.

    Rows share one sum, columns hold one output channel each; partly filled tiles cost as much
    as full ones.
    """
    depth = layer.weights // layer.out_channels
    positions = layer.macs // layer.weights
    tiles = math.ceil(depth / model.rows) * math.ceil(layer.out_channels / model.columns)
    return positions * tiles * w * a / 1e6


def _roofline(model: CostModel, info: NetworkInfo, layer: LayerInfo, w: int, a: int) -> float:
    """Milliseconds: the longer of arithmetic and of moving weights, inputs and outputs.

    `tops` is the rate at 8 bits; wider operands are slower in proportion.
    """
    read = info.tensor(layer.input).elements
    written = layer.macs // (layer.weights // layer.out_channels)
    arithmetic = 2 * layer.macs * max(w, a, 8) / 8 / (model.tops * 1e12)
    moved = (layer.weights * w + (read + written) * a) / 8 / (model.gbps * 1e9)
    return max(arithmetic, moved) * 1e3


Table = Mapping[str, Mapping[str, float]]


def load_table(path: Path, info: NetworkInfo) -> Table:
    """Read a lookup table: layer -> {"w4a8": milliseconds, ..., "remainder": milliseconds}.

    Raises ProfileError with one line if it cannot be read or is of another form.
    """
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise ProfileError(
            f"{path}: cannot read the lookup table: {error.strerror} "
            "(allowed: a JSON file, by its path from the profile)"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{path}: not a lookup table: {error}") from error
    if not isinstance(content, dict):
        raise ProfileError(f"{path}: found {type(content).__name__} (allowed: an object by layer)")
    for layer in info.layers:
        row = content.get(layer.name)
        if not isinstance(row, dict) or not all(_is_time(value) for value in row.values()):
            raise ProfileError(
                f"{path}: layer '{layer.name}': missing or not an object of milliseconds"
            )
    return content


def _is_time(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (0 <= value <= MAX_MILLISECONDS)
    )


def _looked_up(table: Table, layer: LayerInfo, spec: SubnetSpec) -> float:
    choice = spec.weights[layer.name]
    key = "remainder"
    if choice != REMAINDER:
        key = f"w{choice}a{spec.activations[layer.input]}"
    row = table[layer.name]
    if key not in row:
        raise ProfileError(
            f"lookup table: layer '{layer.name}' has no '{key}' (it has: {', '.join(sorted(row))})"
        )
    return row[key]
