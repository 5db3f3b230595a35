"""What an exporter and a runner are: the contract between eqnet and every deployment target.

An exporter is found through the entry-point group ``eqnet.exporters``; a third party's is
first-class. It imports its runtime only inside the calls that need it, so that listing
exporters and checking profiles works on a machine where the runtime is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.machine.isa import Cpu, this_cpu
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.scheme import Granularity, Symmetry

if TYPE_CHECKING:
    from eqnet.backend.artifact import Parity
    from eqnet.spec.manifest import BuildReport
    from eqnet.spec.outside.inspection import BackendFinding, LayerForm
    from eqnet.spec.reports import Check, LoweringNote

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Capabilities:
    """The forms that a target executes with its fast kernels.

    A profile that asks for more is refused at search and export, never silently changed.
    zero_points, unsigned: values of these keys of the profile's ``activations`` that `lower`
        keeps exactly.
    devices: kinds that the profile's `device` may name.
    engines: whether `finish` builds engines ahead of time, by the profile's ``engines``.
    slow, in_float: keys of the profile whose other values `lower` keeps exactly too, in slower
    integer kernels or in float kernels; a profile may accept that by naming them.
    """

    weight_granularities: frozenset[Granularity]
    weight_symmetries: frozenset[Symmetry]
    activation_symmetries: frozenset[Symmetry]
    storages: frozenset[str]
    min_bits: int
    remainders: frozenset[str]
    zero_points: frozenset[str] = frozenset({"free"})
    unsigned: frozenset[str] = frozenset({"halved"})
    devices: frozenset[str] = frozenset({"CPU"})
    engines: bool = False
    slow: frozenset[str] = frozenset()
    in_float: frozenset[str] = frozenset()


class Runner(Protocol):
    """A loaded graph."""

    def __call__(self, inputs: Array) -> Array:
        """Run float32 inputs [N, C, H, W] and return float32 logits [N, classes]."""
        ...


@runtime_checkable
class Exporter(Protocol):
    """A deployment target: it lowers the neutral QDQ graph, and runs what it made."""

    name: str
    capabilities: Capabilities

    def unavailable(self, profile: HardwareProfile | None = None) -> str | None:
        """Why the runtime cannot execute on this machine, or None if it can.

        With a profile: on the device that it names.
        """
        ...

    def runtime_version(self) -> str:
        """Name and version of the runtime, such as ``onnxruntime 1.32.0``."""
        ...

    def refusals(self, profile: HardwareProfile) -> list[str]:
        """One line for each demand of the profile that this target cannot execute well.

        A plain line is final. An `eqnet.backend.refusals.Refusal` may say that the demand is
        exact but slow, which the profile's ``accept_slow`` overrides.
        """
        ...

    def lower(self, reference: ir.Model, profile: HardwareProfile) -> ir.Model:
        """Rewrite a copy of the neutral QDQ graph into the form this target runs fastest."""
        ...

    def finish(self, folder: Path, profile: HardwareProfile) -> list[str]:
        """Write this target's own files (IR, engines, logs) beside ``folder/model.onnx``.

        Returns the names of the files written. Raises EqnetError when the target's own
        compiler refuses the graph.
        """
        ...

    def open(
        self,
        model: Path,
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: HardwareProfile | None = None,
    ) -> Runner:
        """Load an ONNX file (an artifact's model, or its float twin) for execution.

        `optimize=False` turns the runtime's graph optimizations off: the graph's semantics, in
        float32. `profile` says in which precision the remainder runs and on which device; None
        is float32 on the backend's own device.
        """
        ...

    def int8_layers(
        self, folder: Path, layers: Mapping[str, str], profile: HardwareProfile | None = None
    ) -> list[str] | None:
        """Names of the layers that the runtime itself reports as running in int8.

        `layers` maps the layer names of the manifest to the ONNX op type. The proof comes
        from the runtime (its optimized graph, runtime graph or build log), not from the file.
        None where the runtime has no way to tell. `profile`: as in `open`.
        """
        ...


@runtime_checkable
class OwnFiles(Protocol):
    """What an exporter may have besides: files of an artifact that it reads beside the model.

    own_files: names, or patterns of names, of what `open`, `int8_layers` or `extra_checks` may
    read. One that lies in an artifact whose manifest does not list it is never read: such an
    artifact is refused.
    """

    own_files: tuple[str, ...]


@runtime_checkable
class ExtraChecks(Protocol):
    """What an exporter may have besides: checks of its own files, which `eqnet verify` adds."""

    def extra_checks(self, folder: Path, parity: Parity) -> list[Check]:
        """Checks of the artifact in `folder` that need no runtime of the target's."""
        ...


@runtime_checkable
class BuildReports(Protocol):
    """What an exporter may have besides: what the target's own compiler said of the artifact."""

    def build_report(self, folder: Path) -> BuildReport:
        """Read from the files that `finish` wrote; goes into the manifest, which shows it."""
        ...


@runtime_checkable
class Explains(Protocol):
    """What an exporter may have besides: an account of what `lower` does."""

    def explain(self, reference: ir.Model, profile: HardwareProfile) -> list[LoweringNote]:
        """What `lower` changes and leaves of a neutral graph, node by node, in order."""
        ...


@runtime_checkable
class Inspects(Protocol):
    """What an exporter may have besides: what its runtime makes of anybody's ONNX file."""

    def inspect(self, model: Path, layers: Sequence[LayerForm]) -> BackendFinding:
        """Which layers of `model` this target runs in int8, and why not the others.

        `model` need not be eqnet's: any operators and inputs, in any form. Each of `layers` is a
        node of it, known by its name. The finding has one entry for each, in their order, by
        the runtime's own word where it is here. A file that the target does not take is the
        verdict "refused" and no error. `eqnet inspect` calls it in a process of its own.
        """
        ...


REST = ""


@runtime_checkable
class TimesLayers(Protocol):
    """What an exporter may have besides: its runtime's profiler."""

    def layer_times(
        self,
        model: Path,
        inputs: Array,
        layers: Collection[str],
        *,
        profile: HardwareProfile,
        threads: int,
        runs: int,
    ) -> Mapping[str, float]:
        """Mean milliseconds of one run, by layer; what is of no layer is under `REST`.

        model: a file that `lower` made. layers: names of its nodes. A layer has the time of all
        that the runtime fused into it.
        """
        ...


@runtime_checkable
class OpensPlain(Protocol):
    """What an exporter may have besides, where `open` sets more than a user would."""

    def open_plain(self, model: Path, *, threads: int) -> Runner:
        """Load anybody's ONNX file as a user does who sets the number of threads alone."""
        ...


Probed = Callable[[Array], tuple[Array, dict[str, Array]]]
"""Runs float32 inputs [N, C, H, W]: the logits, and by name the tensors that were asked for."""


@runtime_checkable
class Probes(Protocol):
    """What an exporter may have besides: a look at the tensors inside of a graph that it runs."""

    def open_probed(
        self,
        model: Path,
        tensors: Collection[str],
        *,
        optimize: bool = True,
        threads: int | None = None,
        profile: HardwareProfile | None = None,
    ) -> Probed:
        """As `open`, and what it returns also gives tensors of the graph, float32 [N, ...].

        tensors: names of values of the ONNX file. One that the runtime does not show is left out.
        `eqnet verify` says by them which layer computes something else than it should.
        """
        ...


def open_plain(exporter: Exporter, model: Path, *, threads: int) -> Runner:
    """Load a file that is no artifact, to be timed fairly. Raises as `Exporter.open` does."""
    if isinstance(exporter, OpensPlain):
        return exporter.open_plain(model, threads=threads)
    return exporter.open(model, threads=threads)


@dataclass(frozen=True)
class HostLimit:
    """What this machine's CPU does to a profile's artifacts that the target's would not.

    reason: one line that names the remedy. exact: whether the runtime gives the graph's logits
    all the same, by slower kernels.
    """

    reason: str
    exact: bool


@runtime_checkable
class HostKernels(Protocol):
    """What an exporter may have besides: which of this CPU's kernels its runtime uses."""

    def cpu(self) -> Cpu:
        """The instruction sets that the runtime uses here."""
        ...

    def host_limit(self, profile: HardwareProfile) -> HostLimit | None:
        """Why integers come out otherwise here than on the profile's target, or None."""
        ...


def cpu_of(exporter: Exporter) -> Cpu:
    """The instruction sets that an exporter's runtime uses here: by default all there are."""
    if isinstance(exporter, HostKernels):
        return exporter.cpu()
    return this_cpu()


def host_limit(exporter: Exporter, profile: HardwareProfile) -> HostLimit | None:
    """The exporter's word on this machine for a profile; None where it has none to say."""
    if isinstance(exporter, HostKernels):
        return exporter.host_limit(profile)
    return None
