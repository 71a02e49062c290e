"""The build of the miniature: the same commands make the same weights, interrupted or not."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from ddspo.scenes import build as scenes_build
from ddspo.scenes.build import Settings, build
from ddspo.scenes.networks import TOKENS, make_tokenizer

SMALL = Settings(scenes=24, autoencoder_steps=2, steps=4, batch=8, save_every=2)


def test_the_tokenizer_spells_what_it_does_not_know() -> None:
    tokenizer = make_tokenizer()
    prompt = "a photo of three purple crosses left of squares"
    tokens = tokenizer(prompt, padding="max_length", max_length=TOKENS).input_ids
    assert len(tokens) == TOKENS == tokenizer.model_max_length
    assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == prompt
    assert [len(tokenizer(word).input_ids) - 2 for word in ("circle", "purple", "zzzzz")] == [1, 1, 5]


def test_an_interrupted_build_ends_like_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "whole", tmp_path / "work", SMALL)
    original = scenes_build.batch_at

    def failing(step: int, *rest: object) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return original(step, *rest)

    monkeypatch.setattr(scenes_build, "batch_at", failing)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cut", tmp_path / "other", SMALL)
    monkeypatch.undo()
    build(tmp_path / "cut", tmp_path / "other", SMALL)
    one, other = (
        StableDiffusionPipeline.from_pretrained(tmp_path / name / "model", dtype=torch.float32)
        for name in ("whole", "cut")
    )
    for part in ("unet", "text_encoder", "vae"):
        theirs = getattr(other, part).state_dict()
        for name, value in getattr(one, part).state_dict().items():
            assert torch.equal(value, theirs[name]), f"{part}.{name}"
    assert (tmp_path / "whole" / "data" / "evaluation.jsonl").stat().st_size > 1000
