"""Reading what a TensorRT build says of its engine: weights memory, and each layer's input type.

With detailed profiling verbosity the builder prints one line for each layer of the finished
engine: its kind, the data types of its inputs, and the ONNX nodes that it came from. A layer
runs in int8 when the kernel that computes it reads int8. Weights memory alone is no proof: on
SM75 the weights are stored in int8 and expanded to float16 before every convolution.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*)$")
ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\]")
DATA_TYPE = re.compile(r"Datatype: (\w+)")
# Generated pointwise kernels and stream control: they never hold a layer's multiplications.
HELPERS = frozenset({"kgen", "signal", "wait", "shape", "constant", "reformat", "NoOp"})


def weights_memory(log: str) -> int | None:
    """Bytes that the engine of a build log keeps for weights, None where it does not say."""
    sizes = WEIGHTS.findall(log)
    return int(sizes[-1]) if sizes else None


def compute_types(log: str, layers: Iterable[str]) -> dict[str, str]:
    """Layer name -> type that its kernel reads, such as ``Int8`` or ``Half``.

    A layer that the log does not name is left out; where several kernels compute one layer,
    a type other than Int8 wins.
    """
    wanted, types = set(layers), dict[str, str]()
    for line in log.splitlines():
        match = LAYER.match(line.strip())
        if match is None or match["kind"] in HELPERS:
            continue
        inputs = match["inputs"].split("], Constants: ", 1)[0]
        read = DATA_TYPE.search(inputs)
        if read is None:
            continue
        for name in wanted.intersection(ONNX_LAYER.findall(line)):
            if types.get(name, "Int8") == "Int8":
                types[name] = read[1]
    return types
