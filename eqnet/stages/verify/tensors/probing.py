"""The runtime's tensors beside the reference's: whole, and part by part."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import STORAGE, Quantizer, load_graph
from eqnet.backend.inside.fed_graph import FedGraph, points_of
from eqnet.backend.inside.matching import LOGITS, Part, deployed_tensors, parts_before
from eqnet.backend.protocol import Array, Exporter, Probed, Probes
from eqnet.spec.errors import UsageError
from eqnet.spec.manifest import MODEL, REFERENCE, Manifest
from eqnet.stages.verify.execute import STAND_IN

# What another order of sums does to logits, in steps of the 8-bit grid over their range.
SAME_LOGITS = 0.01
TINY = float(np.finfo(np.float32).tiny)

Tensors = dict[str, Array]


@dataclass(frozen=True)
class Graphs:
    """Both graphs of an artifact, and which tensor of one is which of the other.

    points: the reference's quantizers, in graph order. tensors: point -> values of `model` that
    may be it, best first.
    """

    folder: Path
    manifest: Manifest
    reference: ir.Model
    model: ir.Model
    points: Mapping[str, Quantizer]
    tensors: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> Graphs:
        """Of an artifact's folder. Raises ArtifactError."""
        reference, model = load_graph(folder / REFERENCE), load_graph(folder / MODEL)
        tensors = deployed_tensors(reference, model)
        return cls(folder, manifest, reference, model, points_of(reference), tensors)

    def parts(self, cuts: Collection[str]) -> dict[str, Part]:
        """The parts of the reference between these points."""
        outputs = {name: str(self.points[name].output.name) for name in cuts}
        return parts_before(self.reference, outputs)

    def offsets(self) -> dict[str, float]:
        """What a point's real values lack in `model`, where the profile lets it move them.

        A tensor of 0 to 255 steps may be stored signed without a zero-point, moved down by 128;
        then the layers around it hold the difference in their biases.
        """
        if self.manifest.profile.activations.unsigned != "shifted":
            return {}
        found, others = {}, points_of(self.model)
        signed, unsigned = ir.DataType.INT8, ir.DataType.UINT8
        for name, ours in self.points.items():
            theirs = others.get(name)
            if theirs is None or (theirs.dtype, theirs.zero_point) != (signed, 0):
                continue
            if (ours.dtype, ours.zero_point, ours.lo, ours.hi) == (unsigned, 0, *STORAGE[unsigned]):
                found[name] = -STORAGE[signed][0] * ours.scale
        return found


@dataclass(frozen=True)
class Look:
    """A batch of images inside of both: tensors by point, real values but for `expected`.

    judged: the points that this look is for, `LOGITS` among them. whole: the reference's own.
    found: the runtime's. expected: the integers, less the zero-point, that the reference makes of
    the runtime's tensors; of the logits, the logits.
    """

    judged: Collection[str]
    whole: Tensors
    found: Tensors
    expected: Tensors


class Inside:
    """A runtime and the reference, opened so that their tensors can be read.

    seen: point -> the value of the deployed graph that is it, once a batch was looked at.
    disturbed: points that cannot be read without changing the logits.
    """

    def __init__(
        self, graphs: Graphs, prober: Exporter, *, optimize: bool, threads: int | None
    ) -> None:
        """Raises UsageError for an exporter without `Probes`."""
        if not isinstance(prober, Probes):
            raise UsageError(f"{prober.name}: this exporter shows no tensors")
        self.disturbed: list[str] = []
        self.seen: dict[str, str] = {}
        self._graphs, self._prober, self._optimize, self._threads = (
            graphs,
            prober,
            optimize,
            threads,
        )
        self._model, profile = graphs.folder / MODEL, graphs.manifest.profile
        self._plain = prober.open(self._model, optimize=optimize, threads=threads, profile=profile)
        self._whole = self._open_reference()
        self._offsets = graphs.offsets()

    def looks(self, batches: Collection[Array]) -> Iterator[Look]:
        """Look at each batch, float32 [N, C, H, W]; all of one network's tensors at once.

        Where reading all tensors changes the logits, they are read one by one, on the first batch.
        """
        fed: FedGraph | None = None
        probed = self._open([one for names in self._graphs.tensors.values() for one in names])
        for images in batches:
            whole = self._run_whole(images)
            logits, values = probed(images)
            if fed is None:
                self._match(whole, values)
                fed = FedGraph(self._graphs.reference.clone(), self._threads, self.seen)
            found = self._by_point(logits, values)
            if not self._undisturbed(images, found):
                yield from self._one_by_one(images, whole, fed)
                return
            yield self._look([*fed.quantizers, LOGITS], images, whole, found, fed)

    def _open(self, tensors: Collection[str]) -> Probed:
        return self._prober.open_probed(
            self._model,
            tensors,
            optimize=self._optimize,
            threads=self._threads,
            profile=self._graphs.manifest.profile,
        )

    def _open_reference(self) -> Probed:
        stand_in = find_exporter(STAND_IN)
        assert isinstance(stand_in, Probes)
        tensors = [str(point.output.name) for point in self._graphs.points.values()]
        path = self._graphs.folder / REFERENCE
        return stand_in.open_probed(path, tensors, optimize=False, threads=self._threads)

    def _run_whole(self, images: Array) -> Tensors:
        logits, values = self._whole(images)
        points = self._graphs.points.items()
        return {name: values[str(one.output.name)] for name, one in points} | {LOGITS: logits}

    def _match(self, whole: Tensors, values: Mapping[str, Array]) -> None:
        """Find each point among the runtime's tensors: the first of the reference's shape."""
        for name, names in self._graphs.tensors.items():
            for one in names:
                if one in values and values[one].shape == whole[name].shape:
                    self.seen.setdefault(name, one)

    def _by_point(self, logits: Array, values: Mapping[str, Array]) -> Tensors:
        found = {LOGITS: logits}
        for name, tensor in self.seen.items():
            if tensor in values:
                found[name] = values[tensor] + np.float32(self._offsets.get(name, 0.0))
        return found

    def _undisturbed(self, images: Array, found: Tensors) -> bool:
        step = max(self._graphs.manifest.parity.logit_step, TINY)
        difference = np.abs(self._plain(images) - found[LOGITS])
        same = np.isfinite(found[LOGITS]) == np.isfinite(self._plain(images))
        return bool(same.all()) and not bool((difference > SAME_LOGITS * step).any())

    def _one_by_one(self, images: Array, whole: Tensors, fed: FedGraph) -> Iterator[Look]:
        """Each tensor with those that its part reads alone; the others are the reference's."""
        for name, part in self._graphs.parts(self.seen).items():
            tensors = [self.seen[point] for point in (part.reads | {name}) - {LOGITS}]
            found = whole | self._by_point(*self._open(tensors)(images))
            if self._undisturbed(images, found):
                yield self._look([name], images, whole, found, fed)
            else:
                self.disturbed.append(name)

    def _look(
        self,
        judged: Collection[str],
        images: Array,
        whole: Tensors,
        found: Tensors,
        fed: FedGraph,
    ) -> Look:
        logits, stored = fed.run(images, found)
        expected = {LOGITS: logits}
        for name, integers in stored.items():
            zero = fed.quantizers[name].zero_point
            expected[name] = integers.astype(np.float32) - np.float32(zero)
        return Look(judged, whole, found, expected)
