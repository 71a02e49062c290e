"""Kolors: what ChatGLM reads of a prompt, the times of its schedule, and where its folders say that parts are from."""

import json
from pathlib import Path

import pytest
import torch

from ddspo.backbones._identity import identity
from ddspo.backbones._outline import outline
from ddspo.backbones.base import Model
from ddspo.backbones.kolors import Kolors
from ddspo.errors import InputError
from ddspo.maths.paths import DDPM

WHOLE = "x" * 300
"""More than the 256 tokens that are read, so that nothing is padding."""


@pytest.mark.parametrize("prompts", [["a red cube", "x"], ["x", WHOLE], [WHOLE]])
def test_a_text_is_read_as_the_pipeline_reads_it(prompts: list[str]) -> None:
    """Padding and all, to the bit; and as if it were alone."""
    backbone = Kolors.tiny()
    hidden, _, pooled, _ = backbone.pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    found = backbone.encode(prompts)
    assert hidden.shape == (len(prompts), 256, 16)
    assert torch.equal(found["encoder_hidden_states"], hidden)
    assert torch.equal(found["text_embeds"], pooled)
    for row, prompt in enumerate(prompts):
        alone = backbone.encode([prompt])
        for name, rows in found.items():
            torch.testing.assert_close(alone[name][0], rows[row], rtol=1e-5, atol=1e-5)


def test_it_always_reads_as_much() -> None:
    """The pipeline's call takes a length, and does not hand it on."""
    pipeline = Kolors.tiny().pipeline
    Kolors.of(pipeline, Model("x", max_length=256))
    with pytest.raises(InputError, match=r"model\.max_length 100: a KolorsPipeline always reads 256: leave it out"):
        Kolors.of(pipeline, Model("x", max_length=100))


def test_its_schedule_has_1100_times() -> None:
    """And ends at more noise than that of SDXL."""
    path = Kolors.tiny().path
    assert isinstance(path, DDPM)
    assert path.times(torch.tensor([0.0, 0.5, 0.9999])).tolist() == [0, 550, 1099]
    assert path.alphas_cumprod[-1] < 0.002


def test_parts_are_named_by_their_pipeline(tmp_path: Path) -> None:
    """As diffusers writes them: from "kolors". No other module of diffusers can be named so."""
    Kolors.tiny().save(tmp_path)
    path = tmp_path / "model_index.json"
    index = json.loads(path.read_text())
    assert index["text_encoder"] == ["kolors", "ChatGLMModel"]
    assert index["tokenizer"] == ["kolors", "ChatGLMTokenizer"]
    path.write_text(json.dumps(index | {"text_encoder": ["audioldm2", "AudioLDM2ProjectionModel"]}))
    with pytest.raises(InputError, match=r"text_encoder is a audioldm2\.AudioLDM2ProjectionModel, which is no class"):
        Kolors.check(Model(str(tmp_path)))


def test_its_vocabulary_is_part_of_what_it_is(tmp_path: Path) -> None:
    """A file of sentencepiece, without which it is not loaded."""
    Kolors.tiny().save(tmp_path)
    before, path = identity(Model(str(tmp_path))), tmp_path / "tokenizer/tokenizer.model"
    path.write_bytes(path.read_bytes() + b"\0")
    assert identity(Model(str(tmp_path))) != before


def test_an_outline_has_no_weights(tmp_path: Path) -> None:
    """Though ChatGLM would make room for its own on the CPU, six thousand million of them."""
    Kolors.tiny().save(tmp_path)
    found = outline(Kolors, Model(str(tmp_path)))
    assert {each.device.type for each in found.pipeline.text_encoder.parameters()} == {"meta"}
