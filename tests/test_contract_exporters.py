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

import pytest
import yaml
from eqnet_exporters.lowbit import LowBitExporter
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter
from eqnet_exporters.openvino import OpenVinoExporter
from eqnet_exporters.tensorrt import TensorRtExporter

from eqnet.backend import discovery
from eqnet.spec.manifest import MODEL
from eqnet.spec.profile import HardwareProfile
from eqnet.testing import ExporterContract, checks
from eqnet.testing.cases import HARD, executed, pairwise_cases
from eqnet.testing.checks import Made
from eqnet.testing.nets import NETS

PAGE = Path(__file__).parents[1] / "docs" / "writing-an-exporter.md"


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
    """The reason why int8 storage is refused there: it is held by a case that is always run."""

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
    with pytest.raises(AssertionError, match="none of its values lies near"):
        suite.check_run(made, optimize=True, batch=1)


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
