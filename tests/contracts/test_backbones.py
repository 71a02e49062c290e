"""The contract of every backbone, with every adaptation and policy pair."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline
from peft import PeftModel
from safetensors import safe_open

from ddspo import components
from ddspo.adaptations.base import Adaptation, recompute_activations
from ddspo.backbones._schedule import is_flow
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.qwen_image import QwenImage
from ddspo.backbones.sana import Sana
from ddspo.backbones.sd3 import SD3
from ddspo.backbones.z_image import ZImage
from ddspo.cost.shapes import condition_shapes
from ddspo.maths.pair import Pair
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.view import View
from ddspo.policy_pairs.base import PolicyPair
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.training.imitation import Imitators, imitation_step
from ddspo.training.policies import Policies, Pretrained
from ddspo.training.steps import preference_step
from ddspo.training.texts import EncodedTexts, TextsOnDemand

BACKBONES = components.names(Backbone)
ADAPTATIONS = components.names(Adaptation)
PAIRS = components.names(PolicyPair)
PROMPTS = ["a red cube", "two cats", "x"]


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return components.find(Backbone, request.param).tiny()


@pytest.fixture(params=ADAPTATIONS)
def adaptation(request: pytest.FixtureRequest) -> Adaptation:
    return components.find(Adaptation, request.param)()


def inputs(backbone: Backbone, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *backbone.latent_shape, generator=generator), torch.tensor([10, 500, 990])[:count]


def view_of(backbone: Backbone) -> View:
    x, t = inputs(backbone)
    x0, noise = Pair(x, x.flip(0)), torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    noised = x0.map(lambda latents: backbone.path.noise(latents, noise, t))
    conditions = (backbone.encode(PROMPTS), backbone.encode(["red", "cats", "y"]))
    return View(x0, Pair(noise, noise), t, noised, *conditions, backbone.path)


def trained(policies: Policies) -> list[torch.nn.Parameter]:
    return [parameter for parameter in policies.denoiser.parameters() if parameter.requires_grad]


def perturb(policies: Policies) -> None:
    shake(trained(policies), torch.Generator().manual_seed(3))


@torch.no_grad()
def shake(parameters: Iterable[torch.Tensor], generator: torch.Generator) -> None:
    for parameter in parameters:
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def test_shapes(backbone: Backbone) -> None:
    x, t = inputs(backbone)
    assert backbone.predict(backbone.denoiser, x, t, backbone.encode(PROMPTS)).shape == x.shape
    latents = backbone.generate(PROMPTS, [1, 2, 3], 2, 3.0)
    assert latents.shape == x.shape
    images = backbone.decode(latents)
    assert images[0].dtype == "uint8"
    assert images[0].shape[2] == 3
    assert backbone.features(images).shape[0] == 3


def test_batched_is_separate(backbone: Backbone) -> None:
    x, t = inputs(backbone)
    with torch.no_grad():
        together = backbone.predict(backbone.denoiser, x, t, backbone.encode(PROMPTS))
        for row, prompt in enumerate(PROMPTS):
            alone = backbone.predict(backbone.denoiser, x[row : row + 1], t[row : row + 1], backbone.encode([prompt]))
            torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guided", [False, True])
def test_a_sample_is_the_plain_pipelines(backbone: Backbone, *, guided: bool) -> None:
    """To the bit what its scheduler leaves, from the same initial noise, with the usual guidance and without."""
    guidance = backbone.guidance if guided else 1.0
    found = backbone.generate(PROMPTS, [1, 2, 3], 2, guidance)
    latents = backbone.pack(backbone.initial_noise([1, 2, 3]))
    call = {"latents": latents, "num_inference_steps": 2, "output_type": "latent"}
    told: dict[str, Any] = {"guidance_scale": guidance - 1 if isinstance(backbone, ZImage) else guidance}  # none is 0
    if isinstance(backbone, QwenImage):
        told = {"true_cfg_scale": guidance, "negative_prompt": [" "] * 3 if guided else None}
    step, left = backbone.pipeline.scheduler.step, []

    @wraps(step)
    def stepping(*given: Any, **options: Any) -> Any:
        left[:] = step(*given, **options)
        return left

    backbone.pipeline.scheduler.step = stepping
    backbone.pipeline(prompt=list(PROMPTS), **call, **told, **backbone.call)
    assert torch.equal(found, backbone.unpack(left[0]))


def test_a_sample_depends_on_its_own_seed_only(backbone: Backbone) -> None:
    together = backbone.generate(PROMPTS, [7, 8, 9], 2, 3.0)
    alone = backbone.generate(PROMPTS[1:2], [8], 2, 3.0)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


def test_prompts_that_lose_their_end_are_named(backbone: Backbone) -> None:
    """By each encoder that does not read them whole; a word that is read in part counts as lost."""
    assert backbone.too_long(PROMPTS) == []
    long = f"one two {'x' * 2000} three"
    found = backbone.too_long([*PROMPTS, long])
    assert [cut.encoder for cut in found] == [reader.encoder for reader in backbone.readers()]
    assert {(cut.prompt, cut.words) for cut in found} == {(long, f"{'x' * 2000} three")}


def test_cached_condition_is_fresh(backbone: Backbone, tmp_path: Path) -> None:
    fresh = backbone.encode(PROMPTS[::-1])
    for conditions in (EncodedTexts(backbone, [*PROMPTS, PROMPTS[0]], tmp_path), TextsOnDemand(backbone)):
        for name, rows in conditions.of(PROMPTS[::-1], backbone.device).items():
            torch.testing.assert_close(rows, fresh[name])


def test_shapes_of_a_condition_are_known_without_values(backbone: Backbone) -> None:
    """As a cost is counted, of a model that has no weights: nothing may depend on what tensors hold."""
    found = condition_shapes(backbone)
    expected = backbone.encode(["a prompt"])
    assert {name: (rows.shape, rows.dtype) for name, rows in found.items()} == {
        name: (rows.shape, rows.dtype) for name, rows in expected.items()
    }


def policies_for(backbone: Backbone, adaptation: Adaptation, pair: str, folder: Path) -> Policies:
    """Policies with whatever frozen ones a policy pair asks for; winner and loser are random, and on disk."""
    if "winner" not in components.find(PolicyPair, pair)().policies:
        return Policies.of(backbone, adaptation, seed=0)
    other = type(backbone).tiny()
    imitators = Imitators.of(other, adaptation, Pair(1, 2))
    generator = torch.Generator().manual_seed(4)
    for who, behaviour in zip(("winner", "loser"), imitators.trained, strict=True):
        shake(adaptation.parameters(behaviour), generator)
        adaptation.save(other, folder / who, behaviour)
    return Policies.of(backbone, adaptation, seed=0, pretrained=Pretrained(adaptation, folder))


@pytest.mark.parametrize("pair", PAIRS)
def test_training_starts_at_log_2(backbone: Backbone, adaptation: Adaptation, pair: str, tmp_path: Path) -> None:
    """Policy and reference are the same function at the start, to the last bit where the batches are the same."""
    policies = policies_for(backbone, adaptation, pair, tmp_path)
    loss = preference_step(policies, components.find(PolicyPair, pair)(), Logistic(beta=2000), view_of(backbone))
    assert loss.value.item() == pytest.approx(math.log(2), abs=1e-3)
    assert loss.log["win_displacement"].item() < 1e-12
    assert loss.log["gap"].item() > 0


@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_reach_exactly_the_trained_weights(
    backbone: Backbone, adaptation: Adaptation, pair: str, tmp_path: Path
) -> None:
    policies = policies_for(backbone, adaptation, pair, tmp_path)
    perturb(policies)
    preference_step(
        policies, components.find(PolicyPair, pair)(), Logistic(beta=10), view_of(backbone)
    ).value.backward()
    for name, parameter in policies.denoiser.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    still = {n for n, p in policies.denoiser.named_parameters() if p.requires_grad and p.ndim > 1 and not p.grad.any()}
    assert still == {name for name in still if unread(backbone, name)}


def unread(backbone: Backbone, name: str) -> bool:
    """Nothing reads the text that comes out of the last block of some, so nothing depends on its queries."""
    parts = {SD3: ("attn.add_q",), QwenImage: ("attn.add_q", "attn.to_add_out", "txt_mlp")}.get(type(backbone), ())
    return name.startswith(tuple(f"transformer_blocks.1.{part}" for part in parts))


@pytest.mark.parametrize("trains", ["policy", "winner and loser"])
def test_recomputed_activations_give_the_same_gradients(
    backbone: Backbone, adaptation: Adaptation, trains: str
) -> None:
    """To the last bit; when a block runs again, the adapter is on that was on in its forward."""
    view = view_of(backbone)
    if trains == "policy":
        policies = Policies.of(backbone, adaptation, seed=0)
        perturb(policies)
        networks, groups = policies.networks, policies.groups()
        step = partial(preference_step, policies, TrainingFree(), Logistic(beta=10), view)
    else:
        imitators = Imitators.of(backbone, adaptation, Pair(1, 2))
        networks, groups = imitators.networks, imitators.groups()
        shake([each for group in groups.values() for each in group], torch.Generator().manual_seed(3))
        step = partial(imitation_step, imitators, view)
    parameters, calls = [each for group in groups.values() for each in group], [0]
    for module in networks[0].modules():
        module.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1))
    plain = torch.autograd.grad(step().value, parameters, allow_unused=True)
    before = calls[0]
    for network in networks:
        recompute_activations(network)
    again = torch.autograd.grad(step().value, parameters, allow_unused=True)
    assert calls[0] - before > before
    for one, other in zip(plain, again, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)


def test_the_reference_is_a_frozen_copy(backbone: Backbone, adaptation: Adaptation) -> None:
    """However the policy moves; and reading the reference leaves policy and flags as they were."""
    x, t = inputs(backbone)
    condition = backbone.encode(PROMPTS)
    with torch.no_grad():
        before = backbone.predict(backbone.denoiser, x, t, condition)
    policies = Policies.of(backbone, adaptation, seed=0)
    perturb(policies)
    flags = [parameter.requires_grad for parameter in policies.denoiser.parameters()]
    moved = policies.policy(x, t, condition).detach()
    torch.testing.assert_close(policies.frozen(x, t, condition), before, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(moved, before, atol=1e-3)
    assert torch.equal(policies.policy(x, t, condition).detach(), moved)
    assert [parameter.requires_grad for parameter in policies.denoiser.parameters()] == flags


def test_saved_weights_load_into_plain_diffusers(backbone: Backbone, adaptation: Adaptation, tmp_path: Path) -> None:
    """The pipeline's own class reads them and makes the policy's image; so does `load`, which `evaluate` uses."""
    backbone.save(tmp_path / "base")
    before = image_of(backbone.pipeline, backbone)
    perturb(Policies.of(backbone, adaptation, seed=0))
    expected = image_of(backbone.pipeline, backbone)
    adaptation.save(backbone, tmp_path / "aligned")
    plain = plain_pipeline(type(backbone).pipeline_class, tmp_path)
    np.testing.assert_allclose(image_of(plain, backbone), expected, rtol=0, atol=1e-4)
    assert np.abs(expected - before).max() > 1e-3
    loaded = components.find(Backbone, components.name_of(backbone)).tiny()
    adaptation.load(loaded, tmp_path / "aligned")
    np.testing.assert_allclose(image_of(loaded.pipeline, loaded), expected, rtol=0, atol=1e-4)


def image_of(pipeline: Any, like: Backbone) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    return pipeline(
        prompt=PROMPTS[0], num_inference_steps=2, generator=generator, output_type="np", **like.call
    ).images[0]


def plain_pipeline(cls: Any, folder: Path) -> Any:
    """As in a script that has never heard of this library."""
    aligned = folder / "aligned"
    if (aligned / "model_index.json").exists():
        return cls.from_pretrained(aligned)
    pipeline = cls.from_pretrained(folder / "base")
    if cls in (PixArtAlphaPipeline, PixArtSigmaPipeline):
        pipeline.transformer = PeftModel.from_pretrained(pipeline.transformer, str(aligned))
        return pipeline
    with safe_open(aligned / "pytorch_lora_weights.safetensors", "pt") as file:
        assert "r" in file.metadata()["lora_adapter_metadata"]
    pipeline.load_lora_weights(aligned)
    return pipeline


def test_the_prediction_is_the_pipelines_own(backbone: Backbone) -> None:
    """What the pipeline hands its denoiser in a sampler step without guidance is what `predict` does.

    And what it hands its scheduler, signs included, is what `predict` gives.
    Text, pooled text, masks, time ids, packed latents, position ids, clock and guidance input are all among it.
    """
    as_the_pipeline(backbone)


def test_a_clock_of_its_own_is_the_pipelines() -> None:
    """Some transformers of SANA count times from 0 to 1."""
    backbone = Sana.tiny()
    backbone.denoiser.register_to_config(timestep_scale=0.001)  # type: ignore[operator]
    as_the_pipeline(backbone)


def as_the_pipeline(backbone: Backbone) -> None:
    calls, steps = [], []
    signature, step = inspect.signature(backbone.denoiser.forward), backbone.pipeline.scheduler.step

    def note(_: Any, args: Any, kwargs: Any) -> None:
        calls.append(signature.bind(*args, **kwargs).arguments)

    @wraps(step)
    def stepping(prediction: torch.Tensor, t: torch.Tensor, sample: torch.Tensor, *rest: Any, **options: Any) -> Any:
        scheduler = backbone.pipeline.scheduler
        seen = sample if is_flow(type(scheduler)) else scheduler.scale_model_input(sample, t)
        steps.append((prediction, t, seen))
        return step(prediction, t, sample, *rest, **options)

    backbone.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    backbone.pipeline.scheduler.step = stepping
    backbone.generate(PROMPTS, [1, 2, 3], 1, backbone.guidance if backbone.config.get("guidance_embeds") else 1.0)
    (theirs, (expected, t, seen)) = calls.pop(), steps[0]
    with torch.no_grad():
        found = backbone.predict(backbone.denoiser, backbone.unpack(seen), t.repeat(3), backbone.encode(PROMPTS))
    (ours,) = calls
    same(ours, theirs)
    torch.testing.assert_close(found, backbone.unpack(expected), rtol=1e-5, atol=1e-6)


def same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict) and theirs:
        for name in theirs.keys() | ours.keys():
            if name != "return_dict":
                same(ours.get(name), theirs.get(name))
    elif isinstance(theirs, int):
        assert ours == theirs
    elif isinstance(theirs, list | tuple) and theirs:
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(theirs, torch.Tensor):
        if theirs.ndim > 1 and ours.shape[1] > theirs.shape[1]:  # a text that is filled up further says no more
            assert not ours[:, theirs.shape[1] :].any()
            ours = ours[:, : theirs.shape[1]]
        torch.testing.assert_close(ours, theirs.expand_as(ours), rtol=1e-6, atol=1e-6, check_dtype=False)
    else:
        assert not ours
        assert not theirs


def test_latents_of_images_are_in_model_space(backbone: Backbone) -> None:
    """`decode` undoes `to_latents` up to the autoencoder, so factors of scale and shift are each other's inverse."""
    height, width = (backbone.call[name] for name in ("height", "width"))
    images = list(np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8))
    latents = backbone.to_latents(images)
    assert latents.shape == (2, *backbone.latent_shape)
    vae, process = backbone.pipeline.vae, backbone.pipeline.image_processor
    pixels = process.preprocess(np.stack(images) / np.float32(255))
    timed = isinstance(backbone, QwenImage)
    with torch.no_grad():
        code = vae.encode(pixels.unsqueeze(2) if timed else pixels, return_dict=False)[0]
        code = code if isinstance(code, torch.Tensor) else code.mode()
        found = vae.decode(code, return_dict=False)[0]
    expected = process.postprocess(found[:, :, 0] if timed else found, output_type="np") * 255
    np.testing.assert_allclose(backbone.decode(latents), expected, rtol=0, atol=0.51)
    if timed:
        mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(1, -1, 1, 1) for name in ("mean", "std"))
        torch.testing.assert_close(latents, (code[:, :, 0] - mean) / std, rtol=1e-5, atol=1e-5)
    elif "scaling_factor" in vae.config:  # else it has statistics, of which the family's own test knows
        wanted = (code - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor
        torch.testing.assert_close(latents, wanted, rtol=1e-5, atol=1e-5)
    tall = np.zeros((3 * height, 2 * width, 3), np.uint8)
    assert backbone.to_latents([tall, images[0]]).shape == latents.shape


def test_a_folder_is_found_by_its_class_and_runs_in_half_precision(backbone: Backbone, tmp_path: Path) -> None:
    backbone.save(tmp_path)
    given = Model(str(tmp_path), dtype="bf16", max_length=backbone.max_length, resolution=backbone.call["height"])
    assert components.backbone_of(given) is type(backbone)
    loaded = components.backbone_of(given).load(given)
    assert loaded.latent_shape == backbone.latent_shape
    assert loaded.denoiser.dtype == torch.bfloat16
    images = loaded.decode(loaded.generate(PROMPTS, [1, 2, 3], 1, loaded.guidance))
    assert images[0].std() > 0
    x, t = inputs(loaded)
    assert torch.isfinite(loaded.predict(loaded.denoiser, x, t, loaded.encode(PROMPTS))).all()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch, of its own rms_norm
def test_a_step_in_bfloat16(backbone: Backbone, adaptation: Adaptation) -> None:
    """As training runs it: frozen weights and autocast in bf16, trained weights in float32.

    A LoRA still starts at log 2 to the last bit, because policy and reference are the same weights in the same
    precision; a float32 copy of all weights may round differently from the frozen one.
    """
    backbone.pipeline.to(dtype=torch.bfloat16)
    policies = Policies.of(backbone, adaptation, seed=0)
    assert {parameter.dtype for parameter in trained(policies)} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        loss = preference_step(policies, components.find(PolicyPair, "training_free")(), Logistic(), view_of(backbone))
    loss.value.backward()
    assert all(parameter.grad.isfinite().all() for parameter in trained(policies))
    assert torch.isfinite(loss.value)
    if components.name_of(adaptation) == "lora":
        assert loss.value.item() == pytest.approx(math.log(2), abs=1e-6)
        assert loss.log["win_displacement"].item() == 0


def test_the_schedulers_prediction_type_is_honoured() -> None:
    backbone = components.find(Backbone, "sd").tiny()
    backbone.pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    x, t = inputs(backbone)
    assert not torch.equal(backbone.path.target(x, x.flip(0), t), x.flip(0))


@pytest.mark.parametrize(
    ("pair", "frozen"),
    [("training_free", [3]), ("forward_noise", [2]), ("text_preference", [2]), ("data_driven", [2, 1, 1])],
)
def test_cost_of_a_step(backbone: Backbone, pair: str, frozen: list[int], tmp_path: Path) -> None:
    """2 to 4 frozen and 2 policy predictions a pair; neither text encoder nor autoencoder runs."""
    view = view_of(backbone)
    policies = policies_for(backbone, components.find(Adaptation, "lora")(), pair, tmp_path)
    rows: list[tuple[bool, int]] = []
    policies.denoiser.register_forward_pre_hook(lambda _, args: rows.append((torch.is_grad_enabled(), len(args[0]))))
    others: list[str] = []
    for name, part in backbone.pipeline.components.items():
        if isinstance(part, torch.nn.Module) and part is not policies.denoiser:
            part.register_forward_pre_hook(noting(others, name))
    preference_step(policies, components.find(PolicyPair, pair)(), Logistic(), view).value.backward()
    assert rows == [*((False, count * 3) for count in frozen), (True, 2 * 3)]
    assert len(components.find(PolicyPair, pair)().asks().frozen) == sum(frozen)
    assert others == []


@pytest.mark.parametrize(("steps", "guidance"), [(3, 1.0), (3, 4.0)])
def test_sampling_takes_as_many_predictions_as_it_says(backbone: Backbone, steps: int, guidance: float) -> None:
    rows: list[int] = []
    backbone.denoiser.register_forward_pre_hook(
        lambda _, args, named: rows.append(latents_of(args, named)), with_kwargs=True
    )
    backbone.generate(PROMPTS[:1], [1], steps, guidance)
    assert sum(rows) == backbone.evaluations(steps, guidance)


def latents_of(args: Sequence[torch.Tensor], named: Mapping[str, torch.Tensor]) -> int:
    return len(args[0] if args else named.get("hidden_states", named.get("sample")))


def noting(seen: list[str], name: str) -> Callable[..., None]:
    return lambda *_: seen.append(name)
