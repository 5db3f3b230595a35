"""Sums of which one operand's convolution stays in float: no runtime may fuse them otherwise."""

import onnx_ir as ir
import pytest
from eqnet_exporters.openvino import OpenVinoExporter

from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.testing import checks
from eqnet.testing.host import for_this_cpu
from eqnet.testing.subnets import subnet_of


def profile_with(pinned: str | None) -> HardwareProfile:
    content = load_profile("openvino_asym").model_dump(mode="json")
    content["pinned"] = [{"layers": pinned, "bits": "remainder"}] if pinned else []
    return HardwareProfile.model_validate(content)


def test_what_is_added_to_a_float_convolution_has_no_carrier():
    whole = subnet_of("residual", profile_with(None)).spec
    mixed = subnet_of("residual", profile_with("third.conv")).spec
    lost = set(whole.carriers) - set(mixed.carriers)
    assert [name for name in lost if "shortcut" in name]
    assert mixed.weights["shortcut.conv"] == 8


@pytest.mark.parametrize("pinned", [None, "third.conv", "shortcut.conv", "first.conv"])
def test_openvino_executes_the_sum_exactly(pinned, tmp_path):
    exporter = OpenVinoExporter()
    if (reason := exporter.unavailable()) is not None:
        pytest.skip(reason)
    profile = for_this_cpu(exporter, profile_with(pinned))
    subnet = subnet_of("residual", profile)
    path = tmp_path / "model.onnx"
    ir.save(exporter.lower(subnet.reference, profile), path)
    found = exporter.open(path, threads=1, profile=profile)(subnet.images)
    checks.executed(found, subnet, 8, "as deployed")
