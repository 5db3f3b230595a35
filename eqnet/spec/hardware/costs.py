"""What a search minimises: one class a cost model, with its parameters, its unit and its function.

A profile names one (`HardwareProfile.cost`). A new cost model is a new class here, listed in
`CostModel`, and what its parameters are in the YAML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from eqnet.spec.errors import ProfileError, one_line
from eqnet.spec.latency.file import is_latency, parse_latency, require_of
from eqnet.spec.network import LayerInfo, NetworkInfo
from eqnet.spec.scheme import Frozen
from eqnet.spec.subnet import REMAINDER, SubnetSpec, WeightChoice
from eqnet.spec.texts import parse_json

# Bits of a weight that stays in float, by what the profile keeps it in.
REMAINDER_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}
# A day: what is longer, or infinite, is a mistake in a lookup table.
MAX_MILLISECONDS = 86_400_000

Cost = Callable[[SubnetSpec], float]
Table = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class LayerSum:
    """A cost that is a sum over layers: called with one subnet, or tabulated for many at once.

    one: the cost of a layer by its weights' choice and the bits of its input (0: float). It
    raises ProfileError for a pair that it does not know.
    """

    layers: tuple[LayerInfo, ...]
    one: Callable[[LayerInfo, WeightChoice, int], float]

    def __call__(self, spec: SubnetSpec, /) -> float:
        """The cost of a subnet."""
        return sum(self._of(spec, layer) for layer in self.layers)

    def _of(self, spec: SubnetSpec, layer: LayerInfo) -> float:
        return self.one(layer, spec.weights[layer.name], spec.activations.get(layer.input, 0))


def not_timed() -> Cost:
    """For places where no cost model times anything."""
    raise ProfileError("cost: model 'measured' is timed in a search (allowed here: any other)")


class CostSite(NamedTuple):
    """What a cost model may need beside its parameters.

    wide: bits of what stays in float. folder: where the profile's files are sought.
    timed: measures subnets here, and gives the cost of those of the search space, milliseconds.
    graph_sha256: the profile's, by which a measurement of it is known.
    """

    info: NetworkInfo
    wide: int
    folder: Path
    timed: Callable[[], Cost] = not_timed
    graph_sha256: str = ""


class _LayerSum(Frozen):
    """A cost that is a sum over layers, of weights with w bits and inputs with a bits."""

    estimated: ClassVar[bool] = False

    def of(self, site: CostSite) -> Cost:
        """The cost function."""

        def one(layer: LayerInfo, choice: WeightChoice, read: int) -> float:
            if choice == REMAINDER:
                return self.layer(site.info, layer, site.wide, site.wide)
            return self.layer(site.info, layer, int(choice), read)

        return LayerSum(site.info.layers, one)

    def layer(self, info: NetworkInfo, layer: LayerInfo, w: int, a: int) -> float:
        """The cost of one layer."""
        raise NotImplementedError


class BitOps(_LayerSum):
    """Multiply-adds x weight bits x activation bits, in billions."""

    model: Literal["bitops"]
    unit: ClassVar[str] = "G bit-operations"

    def layer(self, info: NetworkInfo, layer: LayerInfo, w: int, a: int) -> float:
        """As the class says."""
        return layer.macs * w * a / 1e9


class BitSerial(_LayerSum):
    """Millions of cycles of a rows x columns array that multiplies one bit by one bit.

    Rows share one sum, columns hold one output channel each; partly filled tiles cost as much
    as full ones.
    """

    model: Literal["bit_serial"]
    rows: Annotated[int, Field(gt=0)] = 16
    columns: Annotated[int, Field(gt=0)] = 16
    unit: ClassVar[str] = "M cycles"

    def layer(self, info: NetworkInfo, layer: LayerInfo, w: int, a: int) -> float:
        """As the class says."""
        depth = layer.weights // layer.out_channels
        positions = layer.macs // layer.weights
        tiles = math.ceil(depth / self.rows) * math.ceil(layer.out_channels / self.columns)
        return positions * tiles * w * a / 1e6


class Roofline(_LayerSum):
    """Estimated milliseconds: the longer of arithmetic and of moving weights, inputs and outputs
    (the roofline of Williams, Waterman and Patterson, CACM 52(4), 2009), layer by layer.

    `tops` is the rate at 8 bits in 10^12 operations a second, and wider operands are slower in
    proportion; `gbps` is 10^9 bytes a second.
    """

    model: Literal["roofline"]
    tops: Annotated[float, Field(gt=0)] = 100.0
    gbps: Annotated[float, Field(gt=0)] = 300.0
    unit: ClassVar[str] = "ms (estimated: roofline)"
    estimated: ClassVar[bool] = True

    def layer(self, info: NetworkInfo, layer: LayerInfo, w: int, a: int) -> float:
        """As the class says."""
        read = info.tensor(layer.input).elements
        written = layer.macs // (layer.weights // layer.out_channels)
        arithmetic = 2 * layer.macs * max(w, a, 8) / 8 / (self.tops * 1e12)
        moved = (layer.weights * w + (read + written) * a) / 8 / (self.gbps * 1e9)
        return max(arithmetic, moved) * 1e3


class BitSerialEnergy(_LayerSum):
    """Microjoules of a rows x columns array that multiplies one bit by one bit, with memories.

    Weights lie still in the array while inputs pass: each weight comes once from DRAM; for each
    output position every tile of columns reads its inputs once from SRAM, and each output is
    written once. A product of w by a bits is w x a products of bits, and each cycle adds one sum
    of a column's rows to its accumulator.

    Picojoules by default from Horowitz, "Computing's energy problem", ISSCC 2014 (45 nm, 0.9 V):
    an 8-bit product 0.2, so 1/64 of it for one bit by one bit; a 32-bit sum 0.1; 64 bits of a
    32 KiB SRAM 20; 64 bits of DRAM 1300, the least that is given there.
    """

    model: Literal["bit_serial_energy"]
    rows: Annotated[int, Field(gt=0)] = 16
    columns: Annotated[int, Field(gt=0)] = 16
    product_pj: Annotated[float, Field(ge=0)] = 0.2 / 64
    sum_pj: Annotated[float, Field(ge=0)] = 0.1
    sram_bit_pj: Annotated[float, Field(ge=0)] = 20 / 64
    dram_bit_pj: Annotated[float, Field(ge=0)] = 1300 / 64
    unit: ClassVar[str] = "uJ"

    def layer(self, info: NetworkInfo, layer: LayerInfo, w: int, a: int) -> float:
        """As the class says."""
        depth = layer.weights // layer.out_channels
        positions = layer.macs // layer.weights
        sums = positions * layer.out_channels * math.ceil(depth / self.rows) * w * a
        tiles = math.ceil(layer.out_channels / self.columns)
        moved = positions * (tiles * depth + layer.out_channels) * a
        picojoules = layer.macs * w * a * self.product_pj + sums * self.sum_pj
        picojoules += moved * self.sram_bit_pj + layer.weights * w * self.dram_bit_pj
        return picojoules / 1e6


class Size(_LayerSum):
    """KiB of all weights."""

    model: Literal["size"]
    unit: ClassVar[str] = "KiB"

    def layer(self, info: NetworkInfo, layer: LayerInfo, w: int, a: int) -> float:
        """As the class says."""
        return layer.weights * w / 8 / 1024


class Lookup(Frozen):
    """Milliseconds from a JSON file, named by its path from the profile.

    A table: layer -> {"w4a8": milliseconds, ..., "remainder": milliseconds}; or what `eqnet
    profile-device` made, on any machine.
    """

    model: Literal["lookup"]
    table: str
    unit: ClassVar[str] = "ms"
    estimated: ClassVar[bool] = False

    def of(self, site: CostSite) -> Cost:
        """The cost function. Raises ProfileError for a bad table."""
        path = site.folder / self.table
        content = _read(path)
        if is_latency(content):
            return _predicted(path, content, site)
        table = _table(path, content, site.info)
        return LayerSum(site.info.layers, partial(_looked_up, table))


class Measured(Frozen):
    """Milliseconds in the real runtime on this host: of every subnet of a small space, and by a
    model that is fitted to some of a large one."""

    model: Literal["measured"]
    unit: ClassVar[str] = "ms"
    estimated: ClassVar[bool] = False

    def of(self, site: CostSite) -> Cost:
        """The cost function, of the subnets of the space; measures what is needed for it."""
        return site.timed()


CostModel = Annotated[
    BitOps | BitSerial | BitSerialEnergy | Roofline | Size | Lookup | Measured,
    Field(discriminator="model"),
]


def size_kib(info: NetworkInfo, spec: SubnetSpec, wide: int) -> float:
    """KiB of all weights; `wide` bits for each weight of the remainder."""
    bits = 0
    for layer in info.layers:
        width = spec.weights[layer.name]
        if width == REMAINDER:
            width = wide
        bits += layer.weights * int(width)
    return bits / 8 / 1024


def _read(path: Path) -> Any:
    """The value of a JSON file. Raises ProfileError with one line if it cannot be read."""
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise ProfileError(
            f"{path}: cannot read the lookup table: {error.strerror} "
            "(allowed: a JSON file, by its path from the profile)"
        ) from error
    except ValueError as error:
        raise ProfileError(f"{path}: not a lookup table: {one_line(error)}") from error


def _predicted(path: Path, content: Any, site: CostSite) -> Cost:
    """The cost function of a file of `eqnet profile-device`."""
    file = parse_latency(path, content)
    require_of(path, file, site.info, site.graph_sha256)
    return lambda spec: file.milliseconds(site.info, spec)


def _table(path: Path, content: Any, info: NetworkInfo) -> Table:
    """A lookup table. Raises ProfileError with one line if it is none."""
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
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= MAX_MILLISECONDS  # type: ignore[operator]  # a number


def _looked_up(table: Table, layer: LayerInfo, choice: WeightChoice, read: int) -> float:
    key = "remainder"
    if choice != REMAINDER:
        key = f"w{choice}a{read}"
    row = table[layer.name]
    if key not in row:
        raise ProfileError(
            f"lookup table: layer '{layer.name}' has no '{key}' (it has: {', '.join(sorted(row))})"
        )
    return row[key]
