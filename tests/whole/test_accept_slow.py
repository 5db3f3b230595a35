"""Demands that a target runs exactly but slowly: refused, or accepted and said at every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from artifacts import profile, rewrite, write_artifact
from graphs import residual_net
from nets import images, small_supernet
from search_tools import World

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import layers_of
from eqnet.backend.refusals import accepted_refusals, keeps_int8
from eqnet.cli.commands.making.export import _print as show
from eqnet.qdq.to_onnx import to_onnx
from eqnet.spec.errors import ProfileError
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import MANIFEST, MODEL, Manifest
from eqnet.stages.export.choose_subnet import ChosenSubnet
from eqnet.stages.export.export import checked_exporter, export, export_in
from eqnet.stages.verify import verify
from eqnet.subnets.build import PlacementStyle, build_spec
from eqnet.subnets.target import Target
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet
from eqnet.testing.host import for_this_cpu

PER_CHANNEL = {"granularity": "per_channel", "symmetry": "asymmetric"}
INT8 = {"symmetry": "asymmetric", "storage": "int8"}
SKIP: dict[str, Any] = {"placement": {"add": "skip", "carriers": ["pool", "concat"]}}
BOTH: dict[str, Any] = {"placement": {"add": "both", "carriers": ["pool", "concat"]}}
# Exporter, profile, weight bits, and whether its layers stay in integer kernels.
EXACT: dict[str, tuple[str, dict[str, Any], int, bool]] = {
    "openvino 2-bit weights": ("openvino", SKIP, 2, True),
    "onnxruntime int8 activations": (
        "onnxruntime",
        {**BOTH, "activations": INT8, "isa": "vnni"},
        8,
        True,
    ),
    "onnxruntime asymmetric weights": ("onnxruntime", {**BOTH, "weights": PER_CHANNEL}, 8, True),
    "onnxruntime few bits": ("onnxruntime", BOTH, 3, True),
    "onnxruntime float sums": ("onnxruntime", SKIP, 8, False),
}
KEYS = ["activations.storage", "placement.add", "bits"]


@pytest.fixture(scope="module")
def net() -> Supernet:
    return small_supernet()


def lowered(net: Supernet, target: HardwareProfile, folder: Path) -> torch.nn.Module:
    """Write model.onnx for the profile's one pair of bits; returns the extracted network."""
    ((weights, activations),) = target.bits
    spec = build_spec(
        net.info,
        PlacementStyle.of(target),
        target.form(),
        {layer.name: weights for layer in net.info.layers},
        {tensor.name: activations for tensor in net.info.read_tensors()},
        profile=target,
    )
    graph = extract(net, spec)
    reference = to_onnx(graph, net.info.input_shape)
    ir.save(find_exporter(target.backend).lower(reference, target), folder / MODEL)
    return graph


@pytest.mark.parametrize("case", EXACT)
def test_what_may_be_accepted_is_exact(net, case, tmp_path):
    """In steps of the logits' 8-bit grid, as verification measures; int8 layers as promised."""
    backend, changes, bits, in_int8 = EXACT[case]
    exporter = find_exporter(backend)
    target = profile(backend, **changes, bits=[[bits, 8]], accept_slow=KEYS)
    target = for_this_cpu(exporter, target)
    assert keeps_int8(accepted_refusals(exporter, target)) is in_int8
    graph, batch = lowered(net, target, tmp_path), images(64)
    with torch.no_grad():
        expected = graph(batch).numpy()
    for optimize in (False, True):
        found = exporter.open(tmp_path / MODEL, optimize=optimize, threads=1)(batch.numpy())
        errors = np.abs(found - expected) / (np.ptp(expected) / 255)
        assert np.percentile(errors, 99) <= 4, optimize
        assert errors.mean() <= 0.3, optimize
    layers = layers_of(ir.load(tmp_path / MODEL))
    proved = exporter.int8_layers(tmp_path, layers)
    assert proved is not None
    assert (set(proved) == set(layers)) is in_int8


def test_an_artifact_with_float_kernels_promises_nothing_and_says_why(tmp_path):
    folder = tmp_path / "made"
    target = profile(placement={"add": "skip"}, accept_slow=["placement.add"])
    write_artifact(folder, residual_net(), target, promised=())
    reason = "placement.add: 'skip' leaves convolutions before a sum in float"
    rewrite(folder, slow=[reason])
    report = verify(folder, threads=1)
    (check,) = (one for one in report.checks if one.name == "int8_layers")
    assert check.verdict == "skipped"
    assert check.value == report.int8_layers
    assert reason in check.reason
    assert report.verdict == "passed"
    rewrite(folder, slow=[])
    (check,) = (one for one in verify(folder, threads=1).checks if one.name == "int8_layers")
    assert check.verdict == "passed"


def test_search_refuses_before_any_work_and_reports_what_was_accepted(world: World):
    rules = profile(placement={"add": "skip"}, bits=[[8, 8]])
    with pytest.raises(ProfileError, match=r"accept_slow: \[placement\.add\]"):
        world(rules)
    assert not (world.folder / "out").exists()
    (line,) = world(rules.model_copy(update={"accept_slow": ("placement.add",)})).slow
    assert line.startswith("placement.add: 'skip'")


def test_export_refuses_before_any_work(world: World):
    path = world.write(profile(**SKIP))
    with pytest.raises(ProfileError, match=r"; exact but slow, .*accept_slow: \[placement\.add\]"):
        export(profile=path, supernet=world.folder / "none", out=world.folder / "out")
    assert not (world.folder / "out").exists()


def test_export_says_and_records_what_was_accepted(world: World, capsys):
    rules = profile(**SKIP, accept_slow=["placement.add"])
    chosen = ChosenSubnet(Target.of(world.info, rules).default("0" * 64), "default")
    folder = world.folder / "artifact"
    made = export_in(world.session, rules, checked_exporter(rules), chosen, folder)
    (line,) = made.slow
    assert line.startswith("placement.add: 'skip' leaves convolutions")
    assert made.int8_layers == ()
    assert Manifest.model_validate_json((folder / MANIFEST).read_bytes()) == made
    show(made, folder)
    printed = capsys.readouterr().out
    assert line in printed
    assert f"0 of {len(world.info.layers)} layers promised" in printed
