"""Activations that are counted without memory: by hand, and against the allocator of a real step."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from ddspo import components
from ddspo.adaptations.base import recompute_activations
from ddspo.adaptations.lora import LoRA
from ddspo.backbones._offload import SERVED
from ddspo.backbones._quantize import block_layers, stored_bytes
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.sd import SD
from ddspo.conditions import Condition
from ddspo.cost._live import Accelerator, peak_of
from ddspo.cost.activations import of_forwards, of_images, of_step, of_texts
from ddspo.cost.memory import in_training
from ddspo.cost.shapes import base_of, condition_shapes, model_outline, network_size, view_of
from ddspo.cost.total import cost
from ddspo.maths.pair import Pair
from ddspo.objectives.base import Loss
from ddspo.recipe import Recipe, load
from ddspo.training.drawing import PLAIN
from ddspo.training.imitation import Imitators, imitation_step
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step

SCENES = Path(__file__).parents[1] / "recipes/scenes.yaml"
PAIRS = 8


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def test_what_lives_at_once_by_hand() -> None:
    """1000 numbers of 4 B, then 2000 while these live, then 500 after they are gone: 12 000 B at the most.

    A view holds what it looks at, and makes nothing; in place nothing is made either.
    """

    def run() -> None:
        first = empty(1000)
        second = empty(2000)
        part = second[:10].view(2, 5)
        first.add_(1)
        del first, second, part
        assert len(empty(500)) == 500

    assert peak_of(run) == 12_000

    def held() -> torch.Tensor:
        part = empty(1000)[:10]
        return part + empty(1000)[:10]

    assert peak_of(held) == 8000 + 40
    before = empty(1000)  # what was there before is not counted, nor what looks at it or changes it
    assert peak_of(lambda: (before[:10], before.add_(1), before.t())) == 0


def test_attention_keeps_no_matrix() -> None:
    """Of 256 tokens, 2 heads of 8 numbers: output, its gradient, those of 3 inputs and one on its way, 16 KiB each."""
    rows = [empty(1, 2, 256, 8).requires_grad_() for _ in range(3)]

    def run() -> None:
        out = functional.scaled_dot_product_attention(*rows)
        torch.autograd.backward(out, torch.empty_like(out))

    with Accelerator(None):
        found = peak_of(run)
    assert found <= 6 * 16_384 + 2 * 2048 < 256 * 256 * 2 * 4


def test_autocast_by_hand() -> None:
    """Half precision of an input of 100 x 10 is 2000 B, of a weight 200 B, both kept for the next use; outputs 2000 B.

    A norm is computed in single precision: its input is cast to 4000 B, and its output takes as many.
    """
    x, weight = empty(100, 10).requires_grad_(), nn.Parameter(empty(10, 10))

    def twice() -> object:
        with Accelerator(torch.bfloat16):
            return functional.linear(x, weight), functional.linear(x, weight)

    assert peak_of(twice) == 200 + 2000 + 2 * 2000
    layer = nn.LayerNorm(10, elementwise_affine=False)

    def norm() -> object:
        with Accelerator(torch.bfloat16), torch.no_grad():
            return layer(empty(100, 10, dtype=torch.bfloat16))

    assert 2000 + 2 * 4000 <= peak_of(norm) <= 2000 + 2 * 4000 + 2 * 400


def of_recipe(folder: Path, *overrides: str) -> Recipe:
    given = [f"train.batch={PAIRS}", f"train.device_batch={PAIRS}", *overrides]
    return load(SCENES, [f"model.path={folder}", "model.backbone=null", *given])


def allocated(step: "partial[object]") -> int:
    """The most bytes that a real call holds on the CPU at once of what it allocates, by the allocator's own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = sorted(_events(found.profiler.kineto_results.experimental_event_tree()))
    now = peak = 0
    for _, size in events:
        now += size
        peak = max(peak, now)
    return peak


def _events(nodes: "list[object]") -> "list[tuple[int, int]]":
    own = []
    for node in nodes:
        if node.name == "[memory]":  # type: ignore[attr-defined]
            own.append((node.start_time_ns, node.extra_fields.alloc_size))  # type: ignore[attr-defined]
        own += _events(node.children)  # type: ignore[attr-defined]
    return own


def a_step(backbone: Backbone, recipe: Recipe) -> "tuple[Policies, partial[object]]":
    if backbone.device.type == "meta":
        with torch.device("meta"):
            policies = Policies.of(backbone, recipe.adaptation, 0)
        condition = condition_shapes(backbone)
    else:
        policies, condition = Policies.of(backbone, recipe.adaptation, 0), backbone.encode(["a prompt"])

    def step() -> object:
        view = view_of(backbone, recipe.draw, condition, recipe.train.device_batch)
        return preference_step(policies, recipe.policy_pair, recipe.objective, view, recipe.draw)

    return policies, partial(step)


@pytest.mark.parametrize(
    ("name", "adaptation", "again"),
    [
        ("sd", "adaptation.lora.rank=4", False),
        ("sd", "adaptation=full", True),
        ("sdxl", "adaptation.lora.rank=4", True),
        ("sd3", "adaptation=full", False),
        ("flux", "adaptation.lora.rank=4", False),
    ],
)
def test_a_step_takes_what_was_counted(name: str, adaptation: str, again: bool, tmp_path: Path) -> None:
    """Within 2 % of the real allocator's peak, in single precision on the CPU."""
    backbone, recipe = outlined(name, tmp_path, adaptation)
    how = replace(recipe.train, gradient_checkpointing=again)
    policies, step = a_step(backbone, recipe)
    counted = of_step(step, policies.networks, policies.groups()["grad_norm"], how, recipe.model)
    real, step = a_step(components.backbone_of(recipe.model).load(recipe.model), recipe)
    if again:
        recompute_activations(real.denoiser)

    def backward() -> None:
        step().value.backward()

    backward()
    for parameter in real.groups()["grad_norm"]:
        parameter.grad = None
    assert counted == pytest.approx(allocated(partial(backward)), rel=0.02)


def outlined(name: str, folder: Path, *overrides: str) -> tuple[Backbone, Recipe]:
    """A tiny model without its weights, and a recipe of it."""
    components.find(Backbone, name).tiny().save(folder)
    recipe = of_recipe(folder, *overrides, *(["model.resolution=16"] if name == "flux" else []))
    return model_outline(recipe.model), recipe


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_drawing_takes_what_was_counted(name: str, tmp_path: Path) -> None:
    """A forward, an encoding of texts, decoding of images: within a tenth of the allocator's peak.

    Encoding of images within a fifth: there a convolution on the CPU takes room of its own, one layer's.
    """
    backbone, recipe = outlined(name, tmp_path)
    real = components.backbone_of(recipe.model).load(recipe.model)
    rows = {key: row.repeat(PAIRS, *[1] * (row.ndim - 1)) for key, row in real.encode(["a prompt"]).items()}
    latents, pixels = torch.zeros(PAIRS, *real.latent_shape), torch.zeros(PAIRS, 3, 16, 16)

    @torch.no_grad()
    def forward() -> object:
        again = {key: row.clone() for key, row in rows.items()}
        return real.predict(real.denoiser, latents.clone(), torch.ones(PAIRS), again)

    condition = condition_shapes(backbone)
    for counted, run, within in (
        (of_forwards(backbone, condition, PAIRS), forward, 0.1),
        (of_texts(backbone, PAIRS), lambda: real.encode(["a prompt"] * PAIRS), 0.1),
        (of_images(backbone, PAIRS), lambda: real.autoencoder.decoded(latents.clone()), 0.1),
        (of_images(backbone, PAIRS, encoded=True), lambda: real.autoencoder.code(pixels.clone()), 0.2),
    ):
        run()
        assert counted == pytest.approx(allocated(partial(run)), rel=within)


def test_pretraining_takes_what_was_counted(tiny_folder: Path) -> None:
    """Its step has two graphs alive at once."""
    recipe = of_recipe(tiny_folder)
    found = []
    for backbone in (model_outline(recipe.model), SD.load(recipe.model)):
        with torch.device(backbone.device):
            imitators = Imitators.of(backbone, LoRA(rank=4), Pair(0, 0))
        condition = condition_shapes(backbone) if backbone.device.type == "meta" else backbone.encode(["a prompt"])
        step = partial(imitate, imitators, condition)
        trained = [each for group in imitators.groups().values() for each in group]
        if backbone.device.type == "meta":
            found.append(of_step(step, imitators.networks, trained, recipe.train, recipe.model))
        else:
            found.append(allocated(partial(lambda step: step().value.backward(), step)))
    assert found[0] == pytest.approx(found[1], rel=0.1)


def imitate(imitators: Imitators, condition: Condition) -> Loss:
    return imitation_step(imitators, view_of(imitators.backbone, PLAIN, condition, PAIRS))


def test_gradients_of_the_micro_batch_before_are_there_already(tiny_folder: Path) -> None:
    """They are no activations then: a full fine-tuning counts fewer of these."""
    found = []
    for batch in (PAIRS, 2 * PAIRS):
        recipe = of_recipe(tiny_folder, "adaptation=full", f"train.batch={batch}")
        policies, step = a_step(model_outline(recipe.model), recipe)
        trained = policies.groups()["grad_norm"]
        found.append(of_step(step, policies.networks, trained, recipe.train, recipe.model))
    assert found[1] <= found[0]
    device = [
        in_training(recipe, model_outline(recipe.model)).total_bytes
        for recipe in (of_recipe(tiny_folder), of_recipe(tiny_folder, f"train.batch={2 * PAIRS}"))
    ]
    assert device[1] >= device[0]


@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_a_quantised_base_by_hand(how: str, tmp_path: Path) -> None:
    """Its blocks' linear weights shrink; the largest of them is made whole while it is at work."""
    backbone, recipe = outlined("sd3", tmp_path, f"model.quantize={how}")
    network = backbone.denoiser
    linear = [layer.weight for _, layer in block_layers(network, (nn.Linear,))]
    base = base_of(network, recipe.model)
    assert base.stays == stored_bytes(network, recipe.model.quantize) < network_size(network)
    assert (base.passes, base.waits) == (4 * max(each.numel() for each in linear), 0)
    plain = in_training(of_recipe(tmp_path), model_outline(Model(str(tmp_path))))
    device = in_training(recipe, model_outline(recipe.model))
    assert plain.frozen_bytes - device.frozen_bytes == network_size(network) - base.stays - base.passes
    assert plain.activations_bytes == device.activations_bytes


def test_a_base_that_waits_by_hand(tmp_path: Path) -> None:
    """All linear weights of its blocks wait in main memory, and those of one block are at work."""
    backbone, recipe = outlined("sd3", tmp_path, "model.offload=true", "train.gradient_checkpointing=true")
    base, network = base_of(backbone.denoiser, recipe.model), backbone.denoiser
    served = {name: 4 * layer.weight.numel() for name, layer in block_layers(network, SERVED)}
    assert base.waits == sum(served.values())
    assert base.stays == network_size(network) - base.waits
    blocks = {".".join(name.split(".")[:2]) for name in served}
    assert base.passes == max(
        sum(size for name, size in served.items() if name.startswith(f"{block}.")) for block in blocks
    )
    found = cost(recipe)
    assert found.host.waiting_bytes == base.waits
