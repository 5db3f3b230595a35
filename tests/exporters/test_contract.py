"""The contract suite on the project's exporters, and on the one of docs/writing-an-exporter.md.

One file, because the networks that it captures serve all of them.
"""

from __future__ import annotations

import re
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import instruction_sets
import numpy as np
import onnx_ir as ir
import pytest
import yaml
from eqnet_exporters.lowbit import LowBitExporter
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter
from eqnet_exporters.openvino import OpenVinoExporter
from eqnet_exporters.tensorrt import TensorRtExporter

from eqnet.backend import discovery
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import MODEL
from eqnet.testing import ExporterContract, checks
from eqnet.testing.checks import Made
from eqnet.testing.host import narrowed
from eqnet.testing.nets.cases import HARD, Case, executed, pairwise_cases
from eqnet.testing.nets.networks import NETS
from eqnet.testing.oracle import TOUCHED, TOUCHED_ON_POWERS
from eqnet.testing.subnets import subnet_of

PAGE = Path(__file__).parents[2] / "docs" / "writing-an-exporter.md"


def snippets(language: str) -> list[str]:
    """The fenced code blocks of the page in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


EXPORTER, SUITE = snippets("python")
# What installing the package would do: the module is there to import, and then its tests.
sys.modules["my_npu"] = types.ModuleType("my_npu")
exec(compile(EXPORTER, str(PAGE), "exec"), vars(sys.modules["my_npu"]))
exec(compile(SUITE, str(PAGE), "exec"), globals())


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """And the entry point that the page's pyproject.toml declares, beside the installed ones."""
    (text,) = snippets("toml")
    declared = tomllib.loads(text)["project"]["entry-points"][discovery.GROUP]
    entries = [metadata.EntryPoint(key, value, discovery.GROUP) for key, value in declared.items()]
    installed = metadata.entry_points

    def both(group: str) -> list[metadata.EntryPoint]:
        return [*installed(group=group), *(entries if group == discovery.GROUP else [])]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, "metadata", types.SimpleNamespace(entry_points=both))
        yield


def test_the_page_makes_an_exporter_and_a_profile_that_it_accepts():
    (text,) = snippets("yaml")
    profile = HardwareProfile.model_validate(yaml.safe_load(text))
    exporter = discovery.find_exporter(profile.backend)
    assert type(exporter).__module__ == "my_npu"
    assert exporter.refusals(profile) == []


class TestOnnxRuntime(ExporterContract):
    exporter = OnnxRuntimeExporter()


class TestLowBit(ExporterContract):
    exporter = LowBitExporter()


class TestOpenVino(ExporterContract):
    exporter = OpenVinoExporter()
    placement = types.MappingProxyType(
        {"add": "skip", "carriers": ("pool", "concat", "mul", "activation")}
    )


def test_a_storage_that_openvino_computes_wrongly_fails_where_it_is_declared(tmp_path_factory):
    """The reason why int8 storage is refused there: it is held by a case that is always run.

    OpenVINO computes it wrongly on some CPUs only; the others have nothing to show.
    """

    class Signed(OpenVinoExporter):
        widened = OpenVinoExporter.capabilities.in_float | {"activations.storage"}
        capabilities = replace(OpenVinoExporter.capabilities, in_float=widened)

    class Suite(ExporterContract):
        exporter = Signed()
        placement = TestOpenVino.placement

    (hard,) = HARD
    cases = pairwise_cases(executed(Signed.capabilities), NETS)
    (case,) = [one for one in cases if vars(one) == {**hard, "bits": (8, 8)}]
    suite = Suite()
    suite.require_runtime()
    made = suite._make(case, tmp_path_factory, finish=True)
    suite.check_run(made, optimize=False, batch=1)
    run = suite.exporter.open(made.folder / MODEL, threads=1, profile=made.profile)
    expected = made.subnet.trace.logits
    error = np.abs(run(made.subnet.images[:1]) - expected[:1]).max() / (np.ptp(expected) / 255)
    if error < 1:
        pytest.skip(f"this CPU computes int8 storage rightly: {error:.2g} steps of the logits off")
    with pytest.raises(AssertionError, match="none of its values lies near"):
        suite.check_run(made, optimize=True, batch=1)


def write_case(suite: ExporterContract, case: Case, narrow: bool, folder: Path) -> Made:
    """A case in a folder of its own, as `run_under` runs it."""
    profile = case.profile(suite.exporter, suite.placement, suite.remainder)
    profile = narrowed(profile) if narrow else profile
    subnet = subnet_of(case.net, profile)
    lowered = suite.exporter.lower(subnet.reference, profile)
    folder.mkdir()
    ir.save(lowered, folder / MODEL)
    np.save(folder / instruction_sets.IMAGES, subnet.images)
    (folder / instruction_sets.PROFILE).write_text(profile.model_dump_json())
    return Made(case, profile, subnet, lowered, folder)


def wrong_of(made: list[Made], ran: instruction_sets.Ran) -> list[str]:
    """One line for each case whose logits are not PyTorch's but for rounding ties."""
    wrong = []
    for one in made:
        logits, bits = ran.logits[one.folder.name], one.case.bits[1]
        touched = TOUCHED if one.case.activation_scales == "free" else TOUCHED_ON_POWERS
        try:
            checks.executed(logits, one.subnet, bits, str(one.case), touched)
        except AssertionError as error:
            wrong.append(str(error).splitlines()[0])
    return wrong


class TestOpenVinoInstructionSets:
    """A part of the contract with the kernels of other CPUs, each in a process of its own."""

    suite = TestOpenVino()
    cases = tuple(pairwise_cases(executed(suite.exporter.capabilities), NETS))

    @pytest.fixture(scope="class")
    def narrow(self, tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
        """A case of each network, with its weights in 7 bits of storage."""
        self.suite.require_runtime()
        root, made = tmp_path_factory.mktemp("narrow"), []
        for index, net in enumerate(NETS):
            cases = [case for case in self.cases if case.net == net]
            made.append(write_case(self.suite, cases[index % len(cases)], True, root / net))
        return made

    @pytest.fixture(scope="class")
    def wide(self, tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
        """Cases with weights of 8 bits."""
        self.suite.require_runtime()
        root = tmp_path_factory.mktemp("wide")
        cases = [case for case in self.cases if case.bits == (8, 8)][::3]
        return [
            write_case(self.suite, case, False, root / f"wide_{index}")
            for index, case in enumerate(cases)
        ]

    @pytest.fixture(scope="class", params=instruction_sets.SETS)
    def ran(
        self, request: pytest.FixtureRequest, narrow: list[Made], wide: list[Made]
    ) -> instruction_sets.Ran:
        """All of them under one instruction set."""
        return instruction_sets.run_under(
            request.param, narrow[0].folder.parent, wide[0].folder.parent
        )

    def test_weights_in_7_bits_are_exact(
        self, narrow: list[Made], ran: instruction_sets.Ran
    ) -> None:
        """What `reduce_range` promises: no sum saturates, whatever the kernel."""
        assert not wrong_of(narrow, ran), ran.kernels
        if reason := ran.not_its_own():
            pytest.skip(f"right, but {reason}")

    def test_weights_in_8_bits_are_exact_unless_the_cpu_is_known_to_overflow(
        self, wide: list[Made], ran: instruction_sets.Ran
    ) -> None:
        """What `host_limit` says of a CPU covers all that OpenVINO computes wrongly there."""
        wrong = wrong_of(wide, ran)
        if wrong:
            assert ran.cpu.adds_in_16_bits(), f"{ran.kernels}: {wrong}"
        elif ran.cpu.adds_in_16_bits():
            pytest.skip(f"right all the same: {', '.join(ran.kernels)} ran")
        if reason := ran.not_its_own():
            pytest.skip(f"{'overflows' if wrong else 'right'}, but {reason}")


class TestTensorRt(ExporterContract):
    exporter = TensorRtExporter()
    placement = types.MappingProxyType({"add": "skip", "carriers": ()})
    remainder = "float16"
    compiles_slowly = True

    @pytest.mark.parametrize("batch", [1, 7])
    def test_onnx_runtime_computes_the_same_graph(self, made: Made, batch: int) -> None:
        """What `verify` does where there is no GPU."""
        run = OnnxRuntimeExporter().open(made.folder / MODEL, optimize=False, threads=1)
        logits = run(made.subnet.images[:batch])
        checks.executed(logits, made.subnet, made.case.bits[1], "the stand-in")
