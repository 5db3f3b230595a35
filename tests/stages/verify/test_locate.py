"""Where a wrong artifact goes wrong: planted faults are found and named, sound networks are not."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import profile, replace_file, rewrite, write_artifact
from graphs import Builder, residual_net

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import load_graph
from eqnet.backend.inside.fed_graph import points_of
from eqnet.backend.inside.matching import LOGITS, deployed_tensors, parts_before
from eqnet.backend.machine.isa import this_cpu
from eqnet.cli.tables.verification import ROWS, chosen_rows
from eqnet.spec.judging.comparison import TensorError
from eqnet.spec.manifest import MODEL, REFERENCE
from eqnet.stages.verify import to_junit, to_markdown, verify
from eqnet.stages.verify.tensors.errors import Errors, Tolerance
from eqnet.stages.verify.tensors.locate import IMAGES, worst_images
from eqnet.testing.faults import KINDS, NoPlaceError, plant

BACKENDS = ("onnxruntime", "openvino")
# What no graph shows: kernels of 16 bits. The others change the graph, on every CPU.
IN_THE_GRAPH = tuple(kind for kind in KINDS if kind != "wide")


def chain(seed=0, asymmetric=False) -> onnx.ModelProto:
    """conv1, pooling, conv2, conv3, the mean, fc; OpenVINO computes no sum of two quantizers."""
    b = Builder(np.random.default_rng(seed), 7)
    point = {"zp": 117} if asymmetric else {"signed": True}
    x = b.conv(b.quantize("input", "input", 0.02, **point), "conv1", 3, 8)
    x = b.node("MaxPool", [b.node("Relu", [x], "relu1.output")], "pool", kernel_shape=[2, 2])
    x = b.conv(b.quantize(x, "relu1", 0.012), "conv2", 8, 8)
    x = b.quantize(b.node("Relu", [x], "relu2.output"), "relu2", 0.01, bits=4, kind="narrow")
    x = b.conv(x, "conv3", 8, 8, k=1)
    x = b.node("GlobalAveragePool", [b.quantize(x, "conv3", 0.01, **point)], "gap.output")
    x = b.quantize(b.node("Flatten", [x], "flat.output"), "flat", 0.004, **point)
    b.gemm(x, "fc", 8, 10)
    return b.model()


def made(folder, backend="onnxruntime", net=None, **form):
    """A sound artifact of 7-bit weights, which no CPU overflows."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    placement = {"add": "skip" if backend == "openvino" else "both", "carriers": ["add", "pool"]}
    if net is None:
        net = chain(**form) if backend == "openvino" else residual_net(storage=7, **form)
    weights = {"granularity": "per_channel", "symmetry": "symmetric", "reduce_range": True}
    target = profile(backend, placement=placement, weights=weights, bits=[[7, 8]])
    write_artifact(folder, net, target)
    for name in find_exporter(backend).finish(folder, target):
        replace_file(folder, name, lambda path: None)
    return folder


def located(folder):
    report = verify(folder, threads=1, locate=True)
    assert report.location is not None
    return report, report.location


@pytest.mark.parametrize(
    ("backend", "form"),
    [
        ("onnxruntime", {}),
        ("onnxruntime", {"asymmetric": True}),
        ("onnxruntime", {"relu6": 0.02}),
        ("onnxruntime", {"bits": 4, "weight_bits": 4}),
        ("openvino", {}),
        ("openvino", {"asymmetric": True, "seed": 3}),
    ],
)
def test_nothing_is_wrong_with_a_sound_network(tmp_path, backend, form):
    report, location = located(made(tmp_path / "a", backend, **form))
    assert [check.name for check in report.checks if check.verdict == "failed"] == []
    assert (location.tensor, location.layer, location.cause) == (None, None, "")
    assert location.run == "deployed"
    assert location.images == IMAGES
    reference = load_graph(tmp_path / "a" / REFERENCE)
    assert [row.tensor for row in location.tensors] == [*points_of(reference), LOGITS]
    assert (location.unseen, location.disturbed, location.beyond) == ((), (), ())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", IN_THE_GRAPH)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_planted_fault_is_named(tmp_path, backend, kind, seed):
    folder = made(tmp_path / "a", backend, seed=seed)
    planted = plant(folder, kind, np.random.default_rng(seed))
    report, location = located(folder)
    assert report.verdict == "failed"
    if planted.layer is not None:
        assert location.layer == planted.layer
    else:
        assert location.tensor == planted.tensor or f"'{planted.tensor}'" in location.cause
    assert location.tensor == location.beyond[0].tensor
    assert location.cause


def test_sums_that_overflow_are_named_and_told_from_wrong_constants(tmp_path, monkeypatch):
    if not this_cpu().adds_in_16_bits():
        pytest.skip("this CPU's kernels do not add in 16 bits")
    folder = made(tmp_path / "a")
    planted = plant(folder, "wide", np.random.default_rng(0))
    _, exact = located(folder)
    assert exact.tensor is None  # eqnet's sessions take kernels that do not overflow
    monkeypatch.setattr("eqnet_exporters.ort.session.on_x86", lambda: False)
    _, location = located(folder)
    assert (location.layer, location.run, location.both_runs) == (planted.layer, "deployed", False)
    assert "16 bits" in location.cause


CAUSES = {
    "scale": "times the reference's",
    "batch_norm": "batch norm is not folded",
    "bias": "on another scale",
    "bfloat16": "Cast",
    "clipped": "1 Clip",
}


@pytest.mark.parametrize("kind", CAUSES)
def test_the_cause_is_told(tmp_path, kind):
    folder = made(tmp_path / "a")
    plant(folder, kind, np.random.default_rng(3))
    _, location = located(folder)
    assert CAUSES[kind] in location.cause
    assert location.both_runs is not None


def test_the_scales_of_both_graphs_are_told(tmp_path):
    folder = made(tmp_path / "a")
    for seed in range(20):
        planted = plant(folder, "scale", np.random.default_rng(seed))
        if planted.tensor in points_of(load_graph(folder / REFERENCE)):
            break
    _, location = located(folder)
    factor = float(planted.text.rsplit(maxsplit=1)[1])
    if location.tensor == planted.tensor:
        ours, theirs = location.reference_grid, location.grid
        assert theirs.scale / ours.scale == pytest.approx(factor, rel=0.01)


def test_only_the_faulty_layer_is_beyond_whatever_its_depth(tmp_path):
    folder = made(tmp_path / "a")
    planted = plant(folder, "batch_norm", np.random.default_rng(5))
    _, location = located(folder)
    assert [row.layers for row in location.beyond] == [(planted.layer,)]
    first = location.beyond[0]
    before = [row.error for row in location.tensors if row.depth < first.depth]
    after = [row.error for row in location.tensors if row.depth >= first.depth]
    assert max(before, default=0) < min(after)  # inherited from there on


def test_without_being_asked_it_looks_only_where_logits_are_wrong(tmp_path):
    folder = made(tmp_path / "a")
    assert verify(folder, threads=1).location is None
    rng = np.random.default_rng(0)
    while verify(folder, threads=1).verdict == "passed":
        plant(folder, "batch_norm", rng)
    report = verify(folder, threads=1)
    assert report.location.tensor is not None
    assert verify(folder, threads=1, locate=False).location is None
    first = f"first wrong tensor: {report.location.tensor}"
    assert first in to_junit(report)
    assert first in to_markdown(report)


def float_between(seed=0) -> onnx.ModelProto:
    """Two convolutions without a quantizer between them."""
    b = Builder(np.random.default_rng(seed), 7)
    x = b.quantize("input", "input", 0.02, signed=True)
    x = b.node("Relu", [b.conv(x, "conv1", 3, 8)], "relu")
    x = b.conv(x, "conv2", 8, 8, float_weight=True)
    x = b.quantize(b.node("Relu", [x], "relu2"), "relu2", 0.02)
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.gemm(b.quantize(x, "flat", 0.01), "fc", 8, 10)
    return b.model()


def test_of_two_layers_between_quantizers_the_one_whose_constants_differ_is_named(tmp_path):
    folder = made(tmp_path / "a", net=float_between())

    def change(path):
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            if tensor.name == "conv2.weight":
                doubled = 2 * onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(doubled, tensor.name))
        onnx.save(model, path)

    replace_file(folder, MODEL, change)
    _, location = located(folder)
    assert location.beyond[0].layers == ("conv1", "conv2")
    assert location.layer == "conv2"
    assert "2 times the reference's" in location.cause


def test_logits_that_are_no_numbers_are_located(tmp_path):
    folder = made(tmp_path / "a")

    def change(path):
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            if tensor.name == "block.conv1.weight.scale":
                scales = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
                tensor.CopyFrom(onnx.numpy_helper.from_array(scales, tensor.name))
        onnx.save(model, path)

    replace_file(folder, MODEL, change)
    report, location = located(folder)
    assert report.verdict == "failed"
    assert location.layer == "block.conv1"
    json.loads(report.model_dump_json())


def test_tensors_that_cannot_be_read_together_are_read_one_by_one(tmp_path, monkeypatch):
    """A runtime that computes otherwise as soon as more than three tensors are read."""
    from eqnet_exporters.onnxruntime import OnnxRuntimeExporter

    folder = made(tmp_path / "a")
    planted = plant(folder, "batch_norm", np.random.default_rng(1))
    honest = OnnxRuntimeExporter.open_probed

    def shy(self, model, tensors, **options):
        probed = honest(self, model, tensors, **options)
        if len(tensors) <= 3 or model.name == REFERENCE:
            return probed
        return lambda inputs: (probed(inputs)[0] + 1, probed(inputs)[1])

    monkeypatch.setattr(OnnxRuntimeExporter, "open_probed", shy)
    _, location = located(folder)
    assert location.layer == planted.layer
    assert location.disturbed == ()
    monkeypatch.setattr(OnnxRuntimeExporter, "open_probed", lambda *a, **k: blind(honest(*a, **k)))
    _, location = located(folder)
    assert location.tensors == ()
    assert LOGITS in location.disturbed


def blind(probed):
    """Whatever is read of it changes the logits; the reference's come out too."""
    return lambda inputs: (probed(inputs)[0] + 1, probed(inputs)[1])


def test_a_backend_that_cannot_run_or_shows_nothing_is_stood_in_for(tmp_path, monkeypatch):
    folder = made(tmp_path / "a", "openvino")
    planted = plant(folder, "batch_norm", np.random.default_rng(1))
    exporter = type(find_exporter("openvino"))
    silent = type("Silent", (exporter,), {"open_probed": None})()
    others = find_exporter
    monkeypatch.setattr(
        "eqnet.stages.verify.execute.find_exporter",
        lambda name: silent if name == "openvino" else others(name),
    )
    _, location = located(folder)
    assert (location.layer, location.run) == (planted.layer, "semantics")
    assert location.note
    assert location.both_runs is None
    monkeypatch.setattr(exporter, "unavailable", lambda self, profile=None: "no such device")
    _, location = located(folder)
    assert location.layer == planted.layer
    assert location.note.startswith("no such device; onnxruntime")


def test_a_quantizer_that_moved_over_pooling_is_matched_by_its_readers(tmp_path):
    folder = made(tmp_path / "a", "openvino")
    reference, model = load_graph(folder / REFERENCE), load_graph(folder / MODEL)
    tensors = deployed_tensors(reference, model)
    assert tensors["relu1.carrier"][-1] == "pool"
    assert tensors["conv3.carrier"] == ("conv3.carrier.dq",)


def test_what_cannot_be_seen_is_part_of_what_follows(tmp_path, monkeypatch):
    folder = made(tmp_path / "a")
    planted = plant(folder, "batch_norm", np.random.default_rng(1))
    hidden = "block.relu1.narrow"

    def few(reference, deployed):
        return {**deployed_tensors(reference, deployed), hidden: ()}

    monkeypatch.setattr("eqnet.stages.verify.tensors.probing.deployed_tensors", few)
    _, location = located(folder)
    assert location.unseen == (hidden,)
    assert hidden not in [row.tensor for row in location.tensors]
    assert planted.layer in location.beyond[0].layers
    assert location.layer == planted.layer


def test_parts_know_their_layers_and_where_they_begin():
    reference = ir.from_proto(residual_net())
    cuts = {name: str(point.output.name) for name, point in points_of(reference).items()}
    parts = parts_before(reference, cuts)
    assert parts[LOGITS].layers == ("fc",)
    assert len(parts[LOGITS].reads) == 1
    whole = parts_before(reference, {})
    assert set(whole) == {LOGITS}
    assert whole[LOGITS].layers == ("conv1", "block.conv1", "block.conv2", "fc")


def test_rounding_is_told_from_faults():
    zeros = np.zeros(10_000, np.float32)
    ties, far, many = zeros.copy(), zeros.copy(), zeros.copy()
    ties[:40], far[0], many[:200] = 1, 2, 1
    for values, beyond in ((zeros, False), (ties, False), (far, True), (many, True)):
        errors = Errors(Tolerance.of(logits=False, coarse=False))
        errors.add(values, zeros, zeros)
        assert errors.beyond is beyond
    coarse = Errors(Tolerance.of(logits=False, coarse=True))
    coarse.add(many, zeros, zeros)
    assert not coarse.beyond
    broken = Errors(Tolerance.of(logits=False, coarse=True))
    broken.add(np.full_like(zeros, np.nan), zeros, zeros)
    assert broken.beyond


def test_the_images_that_are_farthest_off_are_looked_at():
    truth = np.zeros((20, 3), np.float32)
    found = truth + np.arange(20, dtype=np.float32)[:, None]
    found[4, 1] = np.nan
    assert worst_images(found, truth).tolist() == [4, 19, 18, 17, 16, 15, 14, 13]


@pytest.mark.parametrize("count", [0, 1, 5, 12, 13, 200])
def test_the_table_of_growth_has_its_ends_and_the_first_wrong_tensors(count):
    rows = [
        TensorError(
            depth=depth,
            tensor=f"t{depth}",
            layers=(),
            error=0.0,
            worst=0.0,
            added=0.0,
            added_share=0.0,
            beyond=depth % 7 == 3,
        )
        for depth in range(count)
    ]
    shown = chosen_rows(rows)
    assert len(shown) == min(count, ROWS)
    assert [row.depth for row in shown] == sorted({row.depth for row in shown})
    if count:
        assert {shown[0].depth, shown[-1].depth} >= {0, count - 1}
        assert all(row in shown for row in rows if row.depth == 3)


def test_the_command_prints_where_it_goes_wrong(tmp_path, capsys):
    from eqnet.cli.main import main

    folder = made(tmp_path / "a")
    planted = plant(folder, "batch_norm", np.random.default_rng(1))
    assert main(["verify", str(folder), "--threads", "1", "--locate", "-q"]) == 11
    shown = capsys.readouterr()
    assert "first wrong tensor" in shown.out
    assert "batch norm is not folded" in shown.out
    assert f"layer '{planted.layer}'" in shown.err
    assert json.loads((folder / "verify.json").read_text())["location"]["layer"] == planted.layer


def test_a_fault_without_a_place_changes_nothing(tmp_path):
    folder = made(tmp_path / "a")
    rewrite(folder, layers=[])
    before = (folder / MODEL).read_bytes()
    with pytest.raises(NoPlaceError):
        plant(folder, "bias", np.random.default_rng(0))
    assert (folder / MODEL).read_bytes() == before


@pytest.mark.parametrize("seed", range(3))
def test_of_two_layers_with_equal_constants_the_one_beside_the_operator_is_named(
    tmp_path, monkeypatch, seed
):
    hidden = ("block.relu1.narrow", "block.conv2.carrier")

    def few(reference, deployed):
        return {**deployed_tensors(reference, deployed), **dict.fromkeys(hidden, ())}

    monkeypatch.setattr("eqnet.stages.verify.tensors.probing.deployed_tensors", few)
    folder = made(tmp_path / "a")
    planted = plant(folder, "clipped", np.random.default_rng(seed))
    _, location = located(folder)
    assert planted.layer in location.beyond[0].layers
    assert location.layer == planted.layer
