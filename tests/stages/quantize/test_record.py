"""quantize.json, whatever it holds: taken up, or refused in one short line."""

import json

import pytest

from eqnet.spec.errors import OutputError
from eqnet.spec.inputs import Inputs
from eqnet.stages.quantize.settings import RECORD, Settings, read_record, write_record
from eqnet.supernet.checkpoint import SUPERNET_FILE

TEXTS = ["x" * 100_000, "a\nb", "\x1b[2J" * 500, "", " " * 5000]


@pytest.fixture
def settings():
    return Settings.of(
        model="eqnet:resnet20",
        weights=None,
        weights_key=None,
        data=None,
        dataset=None,
        inputs=Inputs(),
        images=256,
        reconstruct=True,
        seed=0,
    )


@pytest.mark.parametrize("text", TEXTS, ids=["long", "lines", "escapes", "empty", "spaces"])
@pytest.mark.parametrize("key", [name for name in Settings.model_fields if name != "images"])
def test_a_record_of_other_settings_is_one_short_line(tmp_path, settings, key, text):
    (tmp_path / SUPERNET_FILE).write_bytes(b"a supernet")
    write_record(tmp_path, settings, {})
    assert read_record(tmp_path, settings) is not None
    content = json.loads((tmp_path / RECORD).read_text())
    content["settings"][key] = {"a": text} if key == "inputs" else text
    (tmp_path / RECORD).write_text(json.dumps(content))
    with pytest.raises(OutputError) as caught:
        read_record(tmp_path, settings)
    said = str(caught.value).replace(str(tmp_path), "")
    assert said.isprintable()
    assert len(said) < 500
