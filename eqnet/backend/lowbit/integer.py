"""A network in integers alone: the reference executor of ``integer.json``; needs numpy alone.

``load_integer(artifact)`` reads the program and the weights that it names from
``weights.eqpack``; calling the result quantizes the float input once, and from there to the
logits every tensor, sum and product is an integer. ``docs/packed-format.md`` says what each op
computes, so that hardware and simulators can be held to it bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.disk.plain import problem_of, require_listed
from eqnet.backend.lowbit.integer_ops import (
    Ints,
    Wide,
    convolution,
    dense,
    require_integers,
    rescale,
    windows,
)
from eqnet.backend.lowbit.packed import PackedTensor, read_packed
from eqnet.spec.errors import ArtifactError, UsageError, one_line
from eqnet.spec.seal import broken_seal
from eqnet.spec.texts import parse_json, read_bounded

INTEGER, PACKED = "integer.json", "weights.eqpack"
FORMAT, VERSION = "eqnet-integer", 1
MAX_SHIFT, MAX_MULTIPLIER = 62, (1 << 31) - 1
MANIFEST, MAX_BYTES, MAX_SIDE = "manifest.json", 64 << 20, 4096
UNIT = [1, 1]
INT32 = (-(1 << 31), (1 << 31) - 1)
# Of each op's own keys. A network pads by less than its windows reach; more would take memory.
OPTIONS = {
    "kernel": (1, MAX_SIDE),
    "strides": (1, MAX_SIDE),
    "dilations": (1, MAX_SIDE),
    "pads": (0, 64),
    "group": (1, 1 << 20),
    "bias_shift": (0, 31),
}


@dataclass(frozen=True)
class Grid:
    """A tensor's integers: real values are ``(q - zero_point) * scale``, q in [lo, hi]."""

    scale: float
    zero_point: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Step:
    """One op of a program; `options` are its own keys (strides, pads, ...)."""

    op: str
    name: str
    inputs: list[str]
    output: str
    multipliers: list[Wide]
    shift: Wide
    weight: Ints | None
    bias: Ints | None
    options: Mapping[str, Any]


@dataclass(frozen=True)
class IntegerProgram:
    """A loaded program. input, output: names of tensors in `grids`."""

    path: Path
    grids: dict[str, Grid]
    steps: list[Step]
    input: str
    input_shape: tuple[int, ...]
    output: str

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 [N, classes] of float32 [N, C, H, W], normalized as the manifest says.

        Raises UsageError on another shape, ArtifactError if the program cannot run.
        """
        if inputs.dtype != np.float32 or inputs.shape[1:] != self.input_shape:
            raise UsageError(
                f"input is {inputs.dtype} {list(inputs.shape)} (allowed: float32 "
                f"[N, {', '.join(str(size) for size in self.input_shape)}])"
            )
        grid = self.grids[self.output]
        logits = self.integers(self.quantize(inputs)).astype(np.float64) - grid.zero_point
        return (logits * grid.scale).astype(np.float32)

    def quantize(self, inputs: NDArray[np.float32]) -> Ints:
        """The input's integers, int32: the only place where a float is read."""
        grid = self.grids[self.input]
        steps = np.rint(inputs / np.float32(grid.scale)) + np.float32(grid.zero_point)
        clipped: Ints = np.clip(steps, grid.lo, grid.hi).astype(np.int32)
        return clipped

    def integers(self, x: Ints) -> Ints:
        """The logits' integers, int32 [N, classes], of the input's."""
        return self.tensors(x)[self.output]

    def tensors(self, x: Ints) -> dict[str, Ints]:
        """Every tensor's integers, int32, by name; what hardware is compared with."""
        require_integers(x, self.input)
        values = {self.input: x}
        for step in self.steps:
            try:
                result = OPS[step.op](step, [values[name] for name in step.inputs], self.grids)
            except (LookupError, ValueError, ArithmeticError, TypeError, MemoryError) as error:
                raise ArtifactError(
                    f"{self.path}: op '{step.name}' cannot run: {one_line(error)}"
                ) from error
            require_integers(result, step.output)
            values[step.output] = result
        return values


Kernel = Callable[[Step, list[Ints], dict[str, Grid]], Ints]


def _centered(x: Ints, name: str, grids: dict[str, Grid]) -> Ints:
    return x - np.int32(grids[name].zero_point)


def _finish(step: Step, terms: list[Ints], grids: dict[str, Grid]) -> Ints:
    to = grids[step.output]
    pairs = list(zip(terms, step.multipliers, strict=True))
    return rescale(pairs, step.shift, to.zero_point, to.lo, to.hi)


def _biased(step: Step, sums: Ints) -> Ints:
    if step.bias is None:
        return sums
    bias = step.bias.reshape(1, -1, *[1] * (sums.ndim - 2))
    return (sums << np.int32(step.options["bias_shift"])) + bias


def _conv(step: Step, inputs: list[Ints], grids: dict[str, Grid]) -> Ints:
    assert step.weight is not None
    x, options = _centered(inputs[0], step.inputs[0], grids), step.options
    strides, pads, dilations = options["strides"], options["pads"], options["dilations"]
    sums = convolution(x, step.weight, strides, pads, dilations, options["group"])
    return _finish(step, [_biased(step, sums)], grids)


def _gemm(step: Step, inputs: list[Ints], grids: dict[str, Grid]) -> Ints:
    assert step.weight is not None
    sums = dense(_centered(inputs[0], step.inputs[0], grids), step.weight)
    return _finish(step, [_biased(step, sums)], grids)


def _rescale(step: Step, inputs: list[Ints], grids: dict[str, Grid]) -> Ints:
    names = zip(inputs, step.inputs, strict=True)
    return _finish(step, [_centered(x, name, grids) for x, name in names], grids)


def _average(step: Step, inputs: list[Ints], grids: dict[str, Grid]) -> Ints:
    x, options = _centered(inputs[0], step.inputs[0], grids), step.options
    view = windows(x, tuple(options["kernel"]), options["strides"], options["pads"], UNIT, 0)
    return _finish(step, [view.sum(axis=(4, 5), dtype=np.int32)], grids)


def _maximum(step: Step, inputs: list[Ints], grids: dict[str, Grid]) -> Ints:
    options, lowest = step.options, grids[step.inputs[0]].lo
    kernel, strides, pads = tuple(options["kernel"]), options["strides"], options["pads"]
    view = windows(inputs[0], kernel, strides, pads, options["dilations"], lowest)
    result: Ints = view.max(axis=(4, 5))
    return result


def _flatten(step: Step, inputs: list[Ints], grids: dict[str, Grid]) -> Ints:
    return inputs[0].reshape(len(inputs[0]), -1)


def _concat(step: Step, inputs: list[Ints], grids: dict[str, Grid]) -> Ints:
    return np.concatenate(inputs, axis=1)


OPS: dict[str, Kernel] = {
    "conv": _conv,
    "gemm": _gemm,
    "add": _rescale,
    "requantize": _rescale,
    "average_pool": _average,
    "max_pool": _maximum,
    "flatten": _flatten,
    "concat": _concat,
}


def load_integer(artifact: Path | str) -> IntegerProgram:
    """Read ``integer.json`` and ``weights.eqpack`` of an artifact folder.

    Where the folder has a manifest both are held to it. Raises ArtifactError with one line if a
    file is missing, changed, damaged or of a later version.
    """
    path = Path(artifact) / INTEGER
    if (path.parent / MANIFEST).exists():
        _require_listed(path.parent)
    content = _read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not an integer program (allowed: format '{FORMAT}')")
    if content.get("version") != VERSION:
        found = one_line(repr(content.get("version")), 60)
        raise ArtifactError(f"{path}: version {found} (allowed: {VERSION})")
    weights = read_packed(path.with_name(PACKED))
    try:
        return _program(path, content, weights)
    except KeyError as error:
        raise ArtifactError(f"{path}: not a sound program: {one_line(error)} is missing") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArtifactError(f"{path}: not a sound program: {one_line(error)}") from error


def _require_listed(folder: Path) -> None:
    """Hold both files to a manifest, which is read here with no package but the standard ones."""
    content = _read_json(folder / MANIFEST)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict):
        raise ArtifactError(f"{folder / MANIFEST}: not a manifest: it lists no files")
    if (broken := broken_seal(content)) is not None:
        raise ArtifactError(f"{folder / MANIFEST}: {broken}")
    for name in (INTEGER, PACKED):
        require_listed(folder, name, files)


def _read_json(path: Path) -> Any:
    try:
        problem = problem_of(path, path.parent)
        content = read_bounded(path, MAX_BYTES) if problem is None else b""
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot read: {error.strerror} (allowed: an artifact with an integer program)"
        ) from error
    if problem is not None or content is None:
        raise ArtifactError(f"{path}: {problem or 'too large'}")
    try:
        return parse_json(content)
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON: {one_line(error)}") from error


def _program(path: Path, content: Any, weights: dict[str, PackedTensor]) -> IntegerProgram:
    grids = {str(name): _grid(entry) for name, entry in content["tensors"].items()}
    steps = [_step(op, grids, weights) for op in content["ops"]]
    shape = tuple(
        _whole({"name": "input"}, "shape", content["input"]["shape"], 1, MAX_SIDE).tolist()
    )
    source, result = content["input"]["tensor"], content["output"]["tensor"]
    tensors = {source, *(step.output for step in steps)}
    if result not in tensors or source not in grids:
        raise ValueError(f"no op makes '{result}' of '{source}'")
    return IntegerProgram(path, grids, steps, source, shape, result)


def _grid(entry: Any) -> Grid:
    scale, zero_point, lo, hi = (entry[key] for key in ("scale", "zero_point", "lo", "hi"))
    if not 0 < float(scale) < math.inf:
        raise ValueError(f"scale {scale} (allowed: above 0)")
    low, high = INT32
    if not all(type(value) is int and low <= value <= high for value in (zero_point, lo, hi)):
        raise ValueError("zero_point, lo, hi (allowed: integers of 32 bits)")
    if lo > hi:
        raise ValueError(f"lo {lo} above hi {hi}")
    return Grid(float(scale), zero_point, lo, hi)


def _step(op: Any, grids: dict[str, Grid], weights: dict[str, PackedTensor]) -> Step:
    kind, inputs, output = op["op"], [str(name) for name in op["inputs"]], str(op["output"])
    if kind not in OPS:
        raise ValueError(f"op '{kind}' is unknown (allowed: {', '.join(OPS)})")
    absent = [name for name in (*inputs, output) if name not in grids]
    if absent or not inputs:
        raise ValueError(f"op '{op['name']}' uses no known tensor ({', '.join(absent)})")
    multipliers = []
    for row in op.get("multiplier", []):
        multipliers.append(_whole(op, "multipliers", row, 0, MAX_MULTIPLIER))
    shift = _whole(op, "shifts", op.get("shift", []), 1, MAX_SHIFT)
    for key, (low, high) in OPTIONS.items():
        values = op.get(key, [])
        _whole(op, key, values if isinstance(values, list) else [values], low, high)
    weight, name, bias = _weight(op, weights), str(op["name"]), None
    if op.get("bias") is not None:
        bias = weights[op["bias"]].values.astype(np.int32)
    return Step(kind, name, inputs, output, multipliers, shift, weight, bias, op)


def _whole(op: Any, what: str, values: Any, low: int, high: int) -> Wide:
    """Integers of an op, int64 [count]. Raises ValueError for others, or one out of range."""
    if not all(type(value) is int and low <= value <= high for value in values):
        raise ValueError(f"op '{op['name']}': {what} (allowed: integers of {low} to {high})")
    return np.array(values, dtype=np.int64)


def _weight(op: Any, weights: dict[str, PackedTensor]) -> Ints | None:
    """The weight's integers without their zero-point, int32; None for an op without a weight."""
    if op["op"] not in ("conv", "gemm"):
        return None
    tensor = weights[op["weight"]]
    require_integers(tensor.values, tensor.name)
    wide: Ints = tensor.values.astype(np.int32)
    if tensor.zero_point is not None:
        shape = [1] * wide.ndim
        shape[0] = tensor.zero_point.size
        wide = wide - tensor.zero_point.astype(np.int32).reshape(shape)
    return wide
