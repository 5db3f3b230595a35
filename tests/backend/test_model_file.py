"""Anybody's ONNX file is read whole or refused in one line."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from strangers import constants, float_net, model, save

from eqnet.backend.graph.model_file import MOST_BYTES, read_model_file
from eqnet.spec.errors import ArtifactError
from eqnet.spec.outside.printable import printable
from eqnet.spec.texts import read_bounded


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_model_file(path)
    said = str(caught.value)
    assert "\n" not in said
    assert said.isprintable()
    return said


def with_external_data(folder: Path) -> Path:
    path = folder / "big.onnx"
    ir.save(ir.from_proto(float_net()), path, external_data="weights.bin", size_threshold_bytes=0)
    return path


def relocate(path: Path, **entries: str) -> None:
    """Change where the first external tensor says that it lies."""
    proto = onnx.load(path, load_external_data=False)
    tensor = next(one for one in proto.graph.initializer if one.external_data)
    for entry in tensor.external_data:
        entry.value = entries.get(entry.key, entry.value)
    save(proto, path)


def test_a_file_as_it_stands(tmp_path: Path):
    file = read_model_file(save(float_net(), tmp_path / "net.onnx"))
    assert (file.size, file.external, file.inlined) == (
        (tmp_path / "net.onnx").stat().st_size,
        (),
        False,
    )
    assert next(node.name for node in file.model.graph) == "conv1"


def test_external_data_counts_and_is_found(tmp_path: Path):
    path = with_external_data(tmp_path)
    file = read_model_file(path)
    sizes = [(tmp_path / name).stat().st_size for name in ("big.onnx", "weights.bin")]
    assert (file.size, file.external) == (sum(sizes), ("weights.bin",))
    read = file.model.graph.initializers["w1"].const_value.numpy()
    np.testing.assert_array_equal(
        read, onnx.numpy_helper.to_array(float_net().graph.initializer[0])
    )


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"location": "../weights.bin"}, "a file in the folder"),
        ({"location": "/etc/passwd"}, "a file in the folder"),
        ({"location": ""}, "a file in the folder"),
        ({"location": "absent.bin"}, "missing"),
        ({"location": "."}, "missing"),
        ({"length": "999999999"}, "lies beyond"),
        ({"location": "\x1b[31mred"}, r"\x1b[31mred"),
    ],
)
def test_external_data_elsewhere_is_refused(entries: dict[str, str], said: str, tmp_path: Path):
    path = with_external_data(tmp_path)
    relocate(path, **entries)
    assert said in refusal(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = with_external_data(inner)
    (inner / "weights.bin").rename(tmp_path / "weights.bin")
    (inner / "weights.bin").symlink_to(tmp_path / "weights.bin")
    assert "a file in the folder" in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no opset"),
        (b"\x08\x0a", "no opset"),
        (b"not a model at all\n" * 40, "not an ONNX file"),
        (float_net().SerializeToString()[:-200], "not an ONNX file"),
        (helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString(), "no nodes"),
    ],
    ids=["empty", "version alone", "text", "cut off", "no nodes"],
)
def test_what_is_no_onnx_file(content: bytes, said: str, tmp_path: Path):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    assert said in refusal(path)


def test_what_is_no_file(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in refusal(tmp_path / "pipe")
    assert "not a file" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "absent.onnx")


def test_a_file_beyond_what_protobuf_holds_is_not_read(tmp_path: Path):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)  # a hole: it takes no space
    assert "external data" in refusal(path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path):
    content = float_net().SerializeToString().replace(b"conv1", b"co\xffv1")
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert "not UTF-8" in refusal(path)


def test_functions_of_the_file_are_written_out(tmp_path: Path):
    function = helper.make_function(
        "own",
        "Double",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 21)],
    )
    proto = model(
        [
            helper.make_node("Double", ["x"], ["d"], "twice", domain="own"),
            helper.make_node("MatMul", ["d", "w"], ["y"], "fc"),
        ],
        constants(w=np.ones((4, 2), np.float32)),
        shape=("N", 4),
        domains=("own",),
    )
    proto.functions.append(function)
    file = read_model_file(save(proto, tmp_path / "net.onnx"))
    assert file.inlined
    assert [node.op_type for node in file.model.graph] == ["Add", "MatMul"]


def test_nothing_in_a_name_moves_the_cursor():
    assert printable("conv\x1b[2J\n\u202e\udc80ü") == "conv\\x1b[2J\\n\\u202e\\udc80ü"
    assert printable("a" * 500, 10) == "aaaaaaa..."
    assert printable(b"\xff") == "b'\\xff'"


def test_a_small_file_takes_little_memory_whatever_is_allowed(tmp_path):
    path = save(float_net(), tmp_path / "small.onnx")
    read_model_file(path)  # what is imported for it
    for read in (lambda: read_model_file(path), lambda: read_bounded(path, 1 << 30)):
        tracemalloc.start()
        try:
            assert read() is not None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16 << 20
