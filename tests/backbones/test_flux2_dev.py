"""What is particular to FLUX.2 dev: Mistral's layers behind a system message, a processor, a guidance input."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from transformers.utils.import_utils import DummyObject

from ddspo.backbones._readers import tokenizer_of
from ddspo.backbones.base import Model
from ddspo.backbones.flux2 import Flux2
from ddspo.backbones.flux2_dev import Flux2Dev
from ddspo.errors import InputError
from ddspo.maths.paths import RectifiedFlow


@pytest.fixture(scope="module")
def backbone() -> Flux2Dev:
    return Flux2Dev.tiny()


def test_layers_side_by_side(backbone: Flux2Dev) -> None:
    """Of each token after 10, 20 and 30 layers of 31, the text at the right end of 60 tokens."""
    tokenizer, network = tokenizer_of(backbone.pipeline.tokenizer), backbone.pipeline.text_encoder
    text = f"<s>[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]a red cube[/INST]"
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        states = network(ids, output_hidden_states=True).hidden_states
    found = backbone.encode(["a red cube"])["encoder_hidden_states"]
    assert found.shape == (1, 60, 3 * 16)
    expected = torch.cat([states[layer][0] for layer in (10, 20, 30)], dim=1)
    torch.testing.assert_close(found[0, -ids.shape[1] :], expected, rtol=1e-4, atol=1e-5)
    assert len(states) == 32


def test_what_mistral_reads(backbone: Flux2Dev) -> None:
    """One mark to begin with, two around the system message and one before the prompt; each letter is a token here."""
    (reader,) = backbone.readers()
    assert reader.prefix == f"<s>[SYSTEM_PROMPT]{SYSTEM_MESSAGE}[/SYSTEM_PROMPT][INST]"
    before = 4 + len(reader.tokenizer(SYSTEM_MESSAGE, add_special_tokens=False).input_ids)
    ends = ["x" * (60 - before), "x" * (61 - before)]
    assert [cut.prompt for cut in backbone.too_long(ends)] == [ends[1]]
    assert reader.alike(ends[0], [ends[1], ends[0][1:]]) == [True, False]


def test_the_guidance_input(backbone: Flux2Dev) -> None:
    """4 if not told otherwise, the pipeline's own; sampling takes it and makes no second prediction."""
    assert backbone.encode(["x", "y"])["guidance"].tolist() == [4.0] * 2
    other = Flux2Dev.of(backbone.pipeline, Model("x", distilled_guidance=2.5, max_length=60, resolution=16))
    assert other.encode(["x"])["guidance"].tolist() == [2.5]
    assert backbone.usual == (50, 4.0)
    assert backbone.evaluations(3, 4.0) == 3
    weak, strong = (backbone.generate(["x"], [1], 1, scale) for scale in (1.0, 4.0))
    assert not torch.equal(weak, strong)
    with pytest.raises(InputError, match=r"this Flux2KleinPipeline has no guidance input"):
        Flux2.of(Flux2.tiny().pipeline, Model("x", distilled_guidance=2.5))


def test_the_shift_is_that_of_50_steps() -> None:
    """At 4096 patches mu is 2.0234, as of klein."""
    path = Flux2Dev.of(Flux2Dev.tiny().pipeline, Model("x", resolution=256)).path
    assert isinstance(path, RectifiedFlow)
    assert path.shift == pytest.approx(math.exp(2.0234), rel=1e-3)


def test_a_processor_that_needs_another_package(
    backbone: Flux2Dev, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixtral's is a name alone without torchvision, and is refused in a line before anything is loaded."""
    needy = DummyObject("PixtralProcessor", (), {"_backends": ["torch", "no_such_package"]})
    monkeypatch.setattr(transformers, "PixtralProcessor", needy)
    backbone.save(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"tokenizer": ["transformers", "PixtralProcessor"]}))
    with pytest.raises(InputError, match="tokenizer is a PixtralProcessor, which needs no_such_package: install it"):
        Flux2Dev.load(Model(str(tmp_path)))
