"""What a rewrite of the neutral graph is: a pass of onnx_ir that says what it did, and what not.

A rewrite is written as a generator that changes the model and yields a `Note` for each node that
it changed, or left although it was of the kind that the rewrite looks for. What it declares to
keep is compared before and after every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import onnx_ir as ir

from eqnet.backend.graph.reading import Quantizer, layers_of, quantizers
from eqnet.spec.reports import LoweringNote
from eqnet_exporters.passes._build import prefix


class Note(NamedTuple):
    """What became of one node: changed, or left as it was, and why."""

    node: str
    text: str
    changed: bool


Notes = Iterator[Note]
Snapshot = dict[str, set[Any]]


def changed(node: ir.Node, text: str) -> Note:
    """A node that was rewritten."""
    return Note(_name(node), text, True)


def left(node: ir.Node, why: str) -> Note:
    """A node that stays as it is."""
    return Note(_name(node), why, False)


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type


def _of_quantizers(fact: Callable[[Quantizer], Any]) -> Callable[[ir.Model], Snapshot]:
    """A fact of each quantizer, by its name. Of equal names all are held together."""

    def snapshot(model: ir.Model) -> Snapshot:
        facts: Snapshot = {}
        for quantizer in quantizers(model):
            facts.setdefault(prefix(quantizer), set()).add(fact(quantizer))
        return facts

    return snapshot


# What a rewrite may declare to keep. Layers and scales are kept by all.
SCALES, RANGES, TYPES = "scales", "ranges", "storage types"
FACTS: dict[str, Callable[[ir.Model], Snapshot]] = {
    SCALES: _of_quantizers(lambda quantizer: quantizer.scale),
    RANGES: _of_quantizers(lambda quantizer: quantizer.hi - quantizer.lo),
    TYPES: _of_quantizers(lambda quantizer: quantizer.dtype),
}


@dataclass
class Rewritten(ir.passes.PassResult):
    """The result of a rewrite: the model, whether it was modified, and what was done where."""

    notes: tuple[Note, ...] = ()


class Rewrite(ir.passes.InPlacePass):
    """A pass that changes a model in place and keeps every integer that the graph computes."""

    def __init__(self, name: str, run: Callable[[ir.Model], Iterable[Note]], keeps: set[str]):
        self.name = name
        self._run = run
        self._keeps = {SCALES, *keeps}

    def call(self, model: ir.Model) -> Rewritten:
        """Run once. Raises PostconditionError where a declared fact does not hold."""
        layers = layers_of(model)
        facts = {fact: FACTS[fact](model) for fact in self._keeps}
        notes = tuple(self._run(model))
        self._require(layers_of(model) == layers, "the layers")
        for fact, before in facts.items():
            after = FACTS[fact](model)
            same = all(after[name] == before[name] for name in before.keys() & after.keys())
            self._require(same, f"the {fact} of quantizers")
        return Rewritten(model, any(note.changed for note in notes), notes)

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise ir.passes.PostconditionError(f"rewrite '{self.name}' changed {what}")


def rewrite(*keeps: str) -> Callable[[Callable[[ir.Model], Notes]], Rewrite]:
    """Make a generator of notes a rewrite that keeps these facts of `FACTS`, and the scales."""

    def as_rewrite(function: Callable[[ir.Model], Notes]) -> Rewrite:
        return Rewrite(function.__name__, function, set(keeps))

    return as_rewrite


def apply(model: ir.Model, rewrites: Iterable[Rewrite]) -> None:
    """Run rewrites one after the other, in place."""
    for each in rewrites:
        each(model)


def notes_of(model: ir.Model, rewrites: Iterable[Rewrite]) -> list[LoweringNote]:
    """Run rewrites one after the other, in place; all that they say, in order."""
    written = []
    for each in rewrites:
        result = each(model)
        assert isinstance(result, Rewritten)
        for node, text, is_changed in result.notes:
            written.append(
                LoweringNote(rewrite=each.name, node=node, changed=is_changed, text=text)
            )
    return written
