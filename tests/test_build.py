"""The build of the miniature: the same commands make the same weights, interrupted or not."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from ddspo.scenes import build as scenes_build
from ddspo.scenes.build import Settings, build
from ddspo.scenes.networks import MINIATURES, TOKENS, make_autoencoder, make_tokenizer
from ddspo.scenes.prompts import SPLITS, split_items


def test_the_tokenizer_spells_what_it_does_not_know() -> None:
    tokenizer = make_tokenizer()
    prompt = "a photo of three purple crosses left of a triangle"
    tokens = tokenizer(prompt, padding="max_length", max_length=TOKENS).input_ids
    assert len(tokens) == TOKENS == tokenizer.model_max_length
    assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == prompt
    assert [len(tokenizer(word).input_ids) - 2 for word in ("triangle", "purple", "zzzzz")] == [1, 1, 5]


def test_every_prompt_is_read_whole() -> None:
    prompts = [row["prompt"] for split in SPLITS for row in split_items(split)]
    lengths = [len(tokens) for tokens in make_tokenizer()(prompts).input_ids]
    assert max(lengths) <= TOKENS
    assert lengths == [len(prompt.split()) + 2 for prompt in prompts]


@pytest.mark.parametrize("name", MINIATURES)
def test_the_loss_reads_prompts_as_the_pipeline_does(name: str) -> None:
    """The same tokens through the loss's own path and through `encode_prompt` give the denoiser the same input."""
    torch.manual_seed(0)
    model = MINIATURES[name](make_tokenizer()).eval()
    pipeline = model.pipeline(make_autoencoder().eval())
    prompts = ["a photo of a red circle", "two squares"]
    tokens = model.tokenizer(prompts, padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    seen: list[torch.Tensor] = []
    denoiser = pipeline.unet if name == "noise" else pipeline.transformer

    def note(_: object, args: tuple[torch.Tensor, ...]) -> None:
        seen.extend(part for part in args if part.ndim in (2, 3))

    denoiser.register_forward_pre_hook(note)
    with torch.no_grad():
        model(torch.zeros(2, 8, 8, 8), torch.zeros(2, 8, 8, 8), torch.tensor([0.3, 0.9]), tokens)
        if name == "noise":
            expected = [pipeline.encode_prompt(prompts, "cpu", 1, False)[0]]
        else:
            hidden, _, pooled, _ = pipeline.encode_prompt(
                prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=TOKENS
            )
            expected = [hidden, pooled]
    for found, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", MINIATURES)
def test_the_loss_of_a_network_that_predicts_nothing(name: str) -> None:
    """By hand: for x0 = 0, noise 2 and a prediction of 0, both |e - eps|^2 and |v - (eps - x0)|^2 are 4.

    |e - eps|^2 is weighed by 1 / alpha_bar: 1 / (1 - 0.00085) at the first time, and 10, the most, at time 900.
    """
    model = MINIATURES[name](make_tokenizer())
    last = model.unet.conv_out if name == "noise" else model.transformer.proj_out
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    x0, tokens = torch.zeros(2, 8, 8, 8), torch.zeros(2, TOKENS, dtype=torch.long)
    expected = (4 / (1 - 0.00085) + 40) / 2 if name == "noise" else 4
    assert model(x0, x0 + 2, torch.tensor([1e-6, 0.9]), tokens).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", MINIATURES)
def test_an_interrupted_build_ends_like_another(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(miniature=name, scenes=24, autoencoder_steps=2, steps=4, batch=8, save_every=2)
    build(tmp_path / "whole", tmp_path / "work", settings)
    original = scenes_build.batch_at

    def failing(step: int, *rest: object) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return original(step, *rest)

    monkeypatch.setattr(scenes_build, "batch_at", failing)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cut", tmp_path / "other", settings)
    monkeypatch.undo()
    build(tmp_path / "cut", tmp_path / "other", settings)
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "flow" else {}
    one, other = (
        DiffusionPipeline.from_pretrained(tmp_path / run / name, dtype=torch.float32, **absent)
        for run in ("whole", "cut")
    )
    for part, module in one.components.items():
        if isinstance(module, torch.nn.Module):
            theirs = other.components[part].state_dict()
            for key, value in module.state_dict().items():
                assert torch.equal(value, theirs[key]), f"{part}.{key}"
    assert (tmp_path / "whole" / "data" / "evaluation.jsonl").stat().st_size > 1000
