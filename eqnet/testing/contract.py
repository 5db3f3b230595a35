"""The contract that every exporter keeps, as a pytest class to subclass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir
import pytest

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import layers_of, strip_qdq
from eqnet.backend.protocol import Capabilities, Exporter
from eqnet.backend.refusals import Refusal
from eqnet.spec.errors import ArtifactError, EqnetError, MissingExtraError
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import MODEL, REFERENCE
from eqnet.testing import checks
from eqnet.testing.checks import Made
from eqnet.testing.host import for_this_cpu
from eqnet.testing.nets.cases import (
    Case,
    all_cases,
    changed,
    executed,
    pairwise_cases,
    refusal_of,
    undeclared,
)
from eqnet.testing.nets.networks import NETS
from eqnet.testing.oracle import TOUCHED, TOUCHED_ON_POWERS
from eqnet.testing.subnets import subnet_of

DAMAGED = ("missing", "empty", "text", "truncated")


class ExporterContract:
    """Subclass it as ``class TestMine(ExporterContract)`` and set `exporter`.

    exporter: the exporter, registered under its name in the group ``eqnet.exporters``.
    placement: where quantizers stand, as in a hardware profile; of the placements that the
    target accepts, the one with the most quantizers finds the most.
    remainder: type of what stays in float, as in a hardware profile.
    nets: names of the networks to use, by default all.
    proves_int8: whether the runtime can tell which layers run in integer kernels.
    in_float: network -> why the runtime leaves some layers of it in float against the promise.
    compiles_slowly: `finish` then runs for one case only, except under ``pytest -m full``.

    Each case is a network in one form that ``exporter.capabilities`` declares. Pairwise covering
    chooses the cases; ``pytest -m full`` runs the whole product. The oracles are the extracted
    PyTorch subnet and ONNX's reference evaluator. Where the exporter says that this CPU overflows
    weights in 8 bits (`HostKernels`), the cases have weights in 7 (`reduce_range`).
    """

    exporter: ClassVar[Exporter]
    placement: ClassVar[Mapping[str, Any]] = {
        "add": "both",
        "carriers": ["pool", "concat", "mul", "activation", "other"],
    }
    remainder: ClassVar[str] = "float32"
    nets: ClassVar[Sequence[str]] = NETS
    proves_int8: ClassVar[bool] = True
    in_float: ClassVar[Mapping[str, str]] = {}
    compiles_slowly: ClassVar[bool] = False

    _kept: ClassVar[dict[tuple[type, str], Made]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give each check its cases."""
        can = self.exporter.capabilities
        cases = pairwise_cases(executed(can), self.nets)
        demands = []
        for key, values in undeclared(can).items():
            demands += [(key, value) for value in values]
        compiled = cases[:1] if self.compiles_slowly else cases
        for name, choices, label in (
            ("case", cases, str),
            ("compiled_case", compiled, str),
            ("net", self.nets, str),
            ("demand", demands, lambda demand: f"{demand[0]}={demand[1]}"),
        ):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, choices, ids=label)

    # What is made once for each case.

    @pytest.fixture
    def made(self, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Made:
        """The case lowered, in a folder as `eqnet export` writes it."""
        return self._make(case, tmp_path_factory, finish=not self.compiles_slowly)

    @pytest.fixture
    def compiled(self, compiled_case: Case, tmp_path_factory: pytest.TempPathFactory) -> Made:
        """As `made`, with everything that `finish` writes."""
        return self._make(compiled_case, tmp_path_factory, finish=True)

    @pytest.fixture
    def profile(self) -> HardwareProfile:
        """The profile of the first case: one that the target accepts."""
        first = pairwise_cases(self.exporter.capabilities, self.nets)[0]
        return self._profile(first)

    def _profile(self, case: Case) -> HardwareProfile:
        profile = case.profile(self.exporter, self.placement, self.remainder)
        return for_this_cpu(self.exporter, profile)

    def _make(self, case: Case, folders: pytest.TempPathFactory, *, finish: bool) -> Made:
        key = (type(self), f"{case} {finish}")
        if key not in self._kept:
            profile = self._profile(case)
            subnet = subnet_of(case.net, profile)
            lowered = self.exporter.lower(subnet.reference, profile)
            folder = folders.mktemp(self.exporter.name)
            ir.save(subnet.reference, folder / REFERENCE)
            ir.save(lowered, folder / MODEL)
            lowering = Made(case, profile, subnet, lowered, folder)
            if finish:
                self.check_files(lowering)
            self._kept[key] = lowering
        return self._kept[key]

    def require_runtime(self) -> None:
        """Skip, with the exporter's reason, where its runtime cannot execute."""
        reason = self.exporter.unavailable()
        if reason is not None:
            pytest.skip(reason)

    # The exporter as such.

    def test_it_is_found_by_its_name(self) -> None:
        """The entry point under its name makes an exporter of this type."""
        exporter = find_exporter(self.exporter.name)
        assert type(exporter) is type(self.exporter)
        assert isinstance(exporter, Exporter)
        assert isinstance(exporter.capabilities, Capabilities)

    def test_it_says_whether_its_runtime_is_there(self) -> None:
        """A reason of one line where it cannot execute, else the name and version of what does."""
        reason = self.exporter.unavailable()
        if reason is None:
            assert self.exporter.runtime_version().strip()
        else:
            assert reason.strip()
            assert "\n" not in reason

    def test_every_declared_form_is_accepted(self) -> None:
        """No form inside the capabilities is refused."""
        refused = {}
        for case in all_cases(self.exporter.capabilities, self.nets[:1]):
            lines = self.exporter.refusals(self._profile(case))
            if lines:
                refused[str(case)] = lines
        assert not refused

    def test_what_is_not_declared_is_refused(
        self, profile: HardwareProfile, demand: tuple[str, Any]
    ) -> None:
        """Each demand outside the capabilities gives one line that begins with its key.

        It may be accepted by the profile only where the capabilities call it slow.
        """
        key, value = demand
        lines = self.exporter.refusals(changed(profile, key, value))
        (line,) = [line for line in lines if line.startswith(key)]
        assert "\n" not in line
        kind = line.kind if isinstance(line, Refusal) else "impossible"
        assert kind == refusal_of(self.exporter.capabilities, key)

    # Graphs: what is computed, in ONNX's reference evaluator.

    def test_the_reference_graph_has_the_integers_of_pytorch(self, made: Made) -> None:
        """Ground for all else: the graph that the exporter is given means the PyTorch subnet."""
        checks.reference(made.subnet)

    def test_the_lowered_graph_has_the_integers_of_pytorch(self, made: Made) -> None:
        """Every quantizer that kept its name, and the logits, but for counted rounding ties."""
        checks.lowered(made)

    def test_the_lowered_graph_is_well_formed(self, made: Made) -> None:
        """Valid ONNX of opset 21; input, output, dynamic batch and layer names are kept."""
        checks.well_formed(made)

    def test_lowering_is_repeatable(self, made: Made) -> None:
        """`lower` changes nothing that it is given and gives the same bytes each time."""
        checks.repeatable(self.exporter, made)

    # Execution in the runtime.

    @pytest.mark.parametrize("batch", [1, 7])
    def test_without_optimizations_the_runtime_computes_the_graph(
        self, made: Made, batch: int
    ) -> None:
        """The runtime's optimizations off: PyTorch's logits but for rounding ties."""
        self.require_runtime()
        self.check_run(made, optimize=False, batch=batch)

    @pytest.mark.parametrize("batch", [1, 7])
    def test_as_deployed_the_runtime_computes_the_graph(self, made: Made, batch: int) -> None:
        """The runtime's optimizations on: the same, in stated steps of the logits."""
        self.require_runtime()
        self.check_run(made, optimize=True, batch=batch)

    def check_run(self, lowering: Made, *, optimize: bool, batch: int) -> None:
        """Run the first `batch` images of a case in the runtime."""
        case, subnet = lowering.case, lowering.subnet
        runner = self.exporter.open(
            lowering.folder / MODEL, optimize=optimize, threads=1, profile=lowering.profile
        )
        state = "on" if optimize else "off"
        touched = TOUCHED if case.activation_scales == "free" else TOUCHED_ON_POWERS
        logits = runner(subnet.images[:batch])
        what = f"{self.exporter.name}, optimizations {state}"
        checks.executed(logits, subnet, case.bits[1], what, touched)

    def test_the_promised_layers_run_in_int8(self, compiled: Made) -> None:
        """By the runtime's own word: every layer with integer weights, and no other."""
        self.check_int8(compiled)

    def check_int8(self, lowering: Made) -> None:
        """Hold `int8_layers` to the promise, where the runtime can tell."""
        layers, promised = layers_of(lowering.lowered), lowering.subnet.promised
        try:
            proved = self.exporter.int8_layers(lowering.folder, layers, lowering.profile)
        except EqnetError as error:
            if self.exporter.unavailable() is None:
                raise
            pytest.skip(str(error))
        if not self.proves_int8:
            assert proved is None, "the runtime can tell after all: take `proves_int8` out"
            return
        assert proved is not None, "the runtime cannot tell: set `proves_int8 = False`"
        assert set(proved) <= set(promised), "a float layer is claimed to be int8"
        missing = [layer for layer in promised if layer not in proved]
        case, can = lowering.case, self.exporter.capabilities
        if case.outside(can) & can.in_float:
            return  # such a form may leave layers in float, and need not
        if case.net in self.in_float:
            assert missing, f"'{case.net}' runs in int8 now: take it out of `in_float`"
        else:
            assert not missing, f"not in int8: {missing}"

    def test_a_float_graph_is_not_claimed_to_run_in_int8(
        self, profile: HardwareProfile, tmp_path: Path
    ) -> None:
        """The proof is the runtime's, so a net without quantizers has none."""
        twin = strip_qdq(subnet_of(self.nets[0], profile).reference)
        ir.save(twin, tmp_path / MODEL)
        try:
            proved = self.exporter.int8_layers(tmp_path, layers_of(twin), profile)
        except EqnetError:
            return  # no record of a build: nothing is claimed
        assert not proved

    # Files.

    def check_files(self, lowering: Made) -> None:
        """`finish` writes the files it names, whole, and touches no other."""
        before = checks.content(lowering.folder)
        try:
            written = self.exporter.finish(lowering.folder, lowering.profile)
        except MissingExtraError as error:
            pytest.skip(str(error))
        after = checks.content(lowering.folder)
        assert {name: after.get(name) for name in before} == before, "finish() changed a file"
        assert sorted(set(after) - set(before)) == sorted(written), "finish() wrote other files"
        assert all(after[name] for name in written), "finish() wrote an empty file"

    @pytest.mark.parametrize("damage", DAMAGED)
    def test_a_damaged_file_is_one_line(
        self, profile: HardwareProfile, tmp_path: Path, damage: str
    ) -> None:
        """`open` raises ArtifactError with the file's name in one line."""
        self.require_runtime()
        path = tmp_path / MODEL
        whole = subnet_of(self.nets[0], profile).reference_bytes
        contents = {"empty": b"", "text": b"not a graph\n", "truncated": whole[: len(whole) // 2]}
        if damage in contents:
            path.write_bytes(contents[damage])
        with pytest.raises(ArtifactError) as caught:
            self.exporter.open(path, profile=profile)
        assert MODEL in str(caught.value)
        assert "\n" not in str(caught.value)

    # Everything, by `pytest -m full`.

    @pytest.mark.full
    def test_the_whole_product_of_forms(
        self, net: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Every declared form of one network, in all of the checks above."""
        failures = []
        for case in all_cases(executed(self.exporter.capabilities), [net]):
            try:
                self._check_all(self._make(case, tmp_path_factory, finish=True))
            except Exception as error:
                failures.append(f"{case}: {type(error).__name__}: {error}")
            self._kept.clear()
        assert not failures, f"{len(failures)} forms fail:\n" + "\n".join(failures)

    def _check_all(self, lowering: Made) -> None:
        checks.reference(lowering.subnet)
        checks.lowered(lowering)
        checks.well_formed(lowering)
        checks.repeatable(self.exporter, lowering)
        if self.exporter.unavailable() is None:
            for optimize, batch in ((False, 1), (False, 7), (True, 1), (True, 7)):
                self.check_run(lowering, optimize=optimize, batch=batch)
        self.check_int8(lowering)
