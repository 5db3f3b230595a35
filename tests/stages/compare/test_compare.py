"""`compare`: artifacts and strangers side by side, and honest about what is not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import PREPROCESSING, pixels, profile, run_plain, write_artifact
from graphs import residual_net
from onnx import helper
from strangers import float_net, model, quantize_static, save

from eqnet.backend.graph.reading import strip_qdq
from eqnet.backend.judge import share_interval
from eqnet.backend.preprocess import preprocess
from eqnet.spec.errors import ArtifactError, DataError, UsageError
from eqnet.spec.outside.side_by_side import ComparedModel, CompareReport
from eqnet.stages.compare import compare


def artifact(folder: Path, *, with_float: bool = True) -> Path:
    """An artifact whose float model is its graph without quantizers, logits stored."""
    import onnx_ir as ir

    reference = residual_net(asymmetric=True)
    logits = None
    if with_float:
        twin = ir.to_proto(strip_qdq(ir.from_proto(reference)))
        logits = run_plain(twin, preprocess(pixels(), PREPROCESSING))
    write_artifact(folder, reference, profile(), float_logits=logits)
    return folder


def twin(path: Path) -> Path:
    """The float network of `artifact` as an ONNX file."""
    import onnx_ir as ir

    ir.save(strip_qdq(ir.from_proto(residual_net(asymmetric=True))), path)
    return path


def by_name(report: CompareReport) -> dict[str, ComparedModel]:
    return {one.name: one for one in report.models}


def test_a_float_file_a_stranger_and_an_artifact(tmp_path: Path):
    files = [twin(tmp_path / "float.onnx"), artifact(tmp_path / "mine")]
    files.append(quantize_static(tmp_path, "theirs.onnx", net=onnx.load(files[0])))
    report = compare(files, repeats=5)
    found = by_name(report)
    assert list(found) == ["float.onnx", "mine", "theirs.onnx"]
    assert report.reference == "the float model of mine"
    assert (report.images, report.source) == (64, "the stored images of mine")
    assert [one.int8.layers for one in report.models] == [0, 4, 4]
    for one in report.models:
        assert len(one.latency.samples) == 5
        assert one.bytes > 0
        # A CPU without the profile's instructions is said, and nothing else.
        assert all("not the target's latency" in reason for reason in one.reasons)
    assert (found["float.onnx"].ratio, found["float.onnx"].ratio_interval) == (None, None)
    low, high = found["mine"].ratio_interval or (0, 0)
    assert low <= found["mine"].ratio <= high
    same = found["float.onnx"].against_reference
    assert same.agreement == 1
    assert found["float.onnx"].agreement_interval == (1, 1)
    for name in ("mine", "theirs.onnx"):
        compared = found[name].against_reference
        assert 0.5 < compared.agreement <= 1
        low, high = found[name].agreement_interval or (1, 0)
        assert 0 <= low <= compared.agreement <= high <= 1
        assert compared.snr_db > 5
        assert found[name].accuracy is not None


def test_agreement_is_what_the_answers_say(tmp_path: Path):
    """Another network agrees with the reference by chance alone, and as counted here."""
    mine, other = artifact(tmp_path / "mine"), save(float_net(), tmp_path / "other.onnx")
    report = compare([mine, other], repeats=5)
    inputs = preprocess(pixels(), PREPROCESSING)
    import onnx_ir as ir

    truth = run_plain(ir.to_proto(strip_qdq(ir.from_proto(residual_net(asymmetric=True)))), inputs)
    renamed = float_net()
    renamed.graph.input[0].name = renamed.graph.node[0].input[0] = "input"
    answers = run_plain(renamed, inputs)
    expected = float(np.mean(truth.argmax(1) == answers.argmax(1)))
    assert by_name(report)["other.onnx"].against_reference.agreement == pytest.approx(expected)


def test_the_first_float_file_is_the_reference_without_stored_logits(tmp_path: Path):
    mine = artifact(tmp_path / "mine", with_float=False)
    report = compare([mine, twin(tmp_path / "float.onnx")], repeats=5)
    assert report.reference == "float.onnx"
    report = compare([mine, save(residual_net(asymmetric=True), tmp_path / "q.onnx")], repeats=5)
    assert report.reference == "mine"
    assert by_name(report)["mine"].against_reference.agreement == 1


def test_without_images_nothing_is_said_of_answers(tmp_path: Path):
    report = compare(
        [save(float_net(), tmp_path / "a.onnx"), quantize_static(tmp_path, "b.onnx")], repeats=5
    )
    assert (report.reference, report.images, report.source) == (None, 0, None)
    assert all(one.against_reference is None for one in report.models)
    assert all(one.latency is not None for one in report.models)


def test_a_folder_of_images_with_labels(tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / "photos" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(5):
            picture = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            image.fromarray(picture).save(folder / f"{number}.png")
    files = [save(float_net(), tmp_path / "a.onnx"), quantize_static(tmp_path, "b.onnx")]
    report = compare(files, data=tmp_path / "photos", repeats=5)
    assert report.reference == "a.onnx"
    assert (report.images, report.source) == (10, "photos test, 10 images")
    found = by_name(report)
    assert 0 <= found["b.onnx"].accuracy <= 1
    assert found["b.onnx"].against_reference.accuracy_drop == pytest.approx(
        100 * (found["a.onnx"].accuracy - found["b.onnx"].accuracy)
    )


def test_images_of_another_size_and_other_classes_are_told(tmp_path: Path):
    other = model(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        [],
    )
    large = float_net()
    for axis in (2, 3):
        large.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 16
    files = [
        artifact(tmp_path / "mine"),
        save(other, tmp_path / "three.onnx"),
        save(large, tmp_path / "large.onnx"),
    ]
    found = by_name(compare(files, repeats=5))
    assert "3 classes (the reference has 10)" in found["three.onnx"].reasons[0]
    assert "input is [3, 16, 16] (images: [3, 8, 8])" in found["large.onnx"].reasons[0]
    assert found["three.onnx"].against_reference is None
    assert found["large.onnx"].latency is not None


def test_a_fixed_batch_is_met_and_never_stretched(tmp_path: Path):
    fixed = onnx.load(twin(tmp_path / "float.onnx"))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    path = save(fixed, tmp_path / "five.onnx")
    mine = artifact(tmp_path / "mine")
    found = by_name(compare([mine, path], repeats=5))
    assert found["five.onnx"].latency is None
    assert "batches of 5 alone (asked: 1)" in found["five.onnx"].reasons[0]
    assert found["five.onnx"].against_reference.agreement == 1  # 64 images in 13 batches of 5
    assert by_name(compare([mine, path], batch=5, repeats=5))["five.onnx"].latency is not None


def test_what_a_backend_refuses_has_a_row_of_its_own(tmp_path: Path):
    odd = model(
        [helper.make_node("Whatever", ["x"], ["y"], "w", domain="own")], [], domains=("own",)
    )
    two = float_net()
    two.graph.input.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))
    files = [
        save(float_net(), tmp_path / "a.onnx"),
        save(odd, tmp_path / "odd.onnx"),
        save(two, tmp_path / "two.onnx"),
    ]
    found = by_name(compare(files, repeats=5))
    assert "Whatever" in found["odd.onnx"].reasons[0]
    assert (found["odd.onnx"].int8, found["odd.onnx"].latency) == (None, None)
    assert "not one float32 tensor" in found["two.onnx"].reasons[0]
    assert found["a.onnx"].latency is not None


def test_the_first_that_cannot_run_leaves_no_ratio(tmp_path: Path):
    odd = model(
        [helper.make_node("Whatever", ["x"], ["y"], "w", domain="own")], [], domains=("own",)
    )
    files = [save(odd, tmp_path / "odd.onnx"), save(float_net(), tmp_path / "a.onnx")]
    found = by_name(compare(files, repeats=5))
    assert found["a.onnx"].latency is not None
    assert found["a.onnx"].ratio is None


def test_each_artifact_runs_in_its_own_backend(tmp_path: Path):
    pytest.importorskip("openvino")
    mine = artifact(tmp_path / "mine")
    report = compare([mine, twin(tmp_path / "float.onnx")], backend="openvino", repeats=5)
    assert [one.runtime.split()[0] for one in report.models] == ["onnxruntime", "openvino"]


def test_models_that_end_alike_are_told_apart(tmp_path: Path):
    files = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        files.append(save(float_net(), tmp_path / folder / "net.onnx"))
    report = compare([*files, save(float_net(), tmp_path / "third.onnx")], repeats=5)
    assert [one.name for one in report.models] == [*map(str, files), "third.onnx"]


def test_bad_input(tmp_path: Path):
    good = save(float_net(), tmp_path / "a.onnx")
    bad = tmp_path / "b.onnx"
    bad.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        compare([good, bad])
    with pytest.raises(UsageError, match="1 models"):
        compare([good])
    with pytest.raises(UsageError, match="unknown backend"):
        compare([good, good], backend="none")
    with pytest.raises(UsageError, match="repeats 4"):
        compare([good, good], repeats=4)
    with pytest.raises(DataError):
        compare([good, good], data=tmp_path / "absent", repeats=5)


def test_a_changed_artifact_is_refused(tmp_path: Path):
    mine = artifact(tmp_path / "mine")
    save(float_net(), mine / "model.onnx")
    with pytest.raises(ArtifactError, match="changed or corrupt"):
        compare([mine, save(float_net(), tmp_path / "a.onnx")])


def test_the_interval_of_a_share_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        share = rng.binomial(300, 0.9) / 300
        low, high = share_interval(share, 300, seed)
        held += low <= 0.9 <= high
    assert 180 <= held <= 198  # 190 expected, a standard deviation of 3
