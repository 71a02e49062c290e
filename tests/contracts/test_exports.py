"""Every format on every backbone: what another program reads predicts what the policy predicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import add, add_fused
from safetensors.torch import load_file
from torch import Tensor, nn

from ddspo import components
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.base import Backbone, Model
from ddspo.errors import InputError
from ddspo.exports.base import Aligned, Export
from ddspo.exports.comfyui import ComfyUI
from ddspo.exports.diffusers import Diffusers
from ddspo.exports.kohya import Kohya
from ddspo.exports.merged import Merged
from ddspo.stages.export import export
from ddspo.training.policies import Policies

KOHYA = {"sd", "sdxl", "flux", "chroma", "lumina2"}
COMFYUI = {
    "sd",
    "sdxl",
    "sd3",
    "flux",
    "flux2",
    "flux2_dev",
    "chroma",
    "auraflow",
    "hidream",
    "lumina2",
    "pixart",
    "pixart_alpha",
    "qwen_image",
    "z_image",
}
BACKBONES = components.names(Backbone)


@dataclass
class Finished:
    """A trained LoRA of rank 4 and alpha 8, and what its policy predicts."""

    aligned: Aligned
    backbone: Backbone
    inputs: tuple[Tensor, Tensor, Mapping[str, Tensor]]
    expected: Tensor

    @torch.no_grad()
    def agrees(self, denoiser: nn.Module) -> None:
        found = self.backbone.predict(denoiser, *self.inputs)
        torch.testing.assert_close(found, self.expected, rtol=1e-4, atol=1e-5)

    def plain(self) -> Any:
        """The base in its own pipeline class; it predicts something else."""
        pipeline = self.backbone.pipeline_class.from_pretrained(self.aligned.model.path)
        with pytest.raises(AssertionError):
            self.agrees(getattr(pipeline, self.backbone.denoiser_name))
        return pipeline

    def write(self, how: Export, folder: Path) -> Path:
        out = folder / f"out{how.suffix}"
        export(self.aligned, how, out, "a card")
        return out


@pytest.fixture(scope="module", params=BACKBONES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp(request.param)
    cls = components.find(Backbone, request.param)
    backbone, adaptation = cls.tiny(), LoRA(rank=4, alpha=8.0)
    backbone.save(folder / "base")
    policies = Policies.of(backbone, adaptation, seed=0)
    generator = torch.Generator().manual_seed(3)
    x, t = torch.randn(2, *backbone.latent_shape, generator=generator), torch.tensor([10, 500])
    condition = backbone.encode(["a red cube", "two cats"])
    with torch.no_grad():
        for parameter in policies.denoiser.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        expected = policies.policy(x, t, condition)
    adaptation.save(backbone, folder / "aligned")
    aligned = Aligned("small", folder / "aligned", Model(str(folder / "base"), request.param), cls)
    return Finished(aligned, backbone, (x, t, condition), expected)


def test_the_code_of_the_card_loads_it(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder where base and export lie under their names."""
    finished.write(Diffusers(), tmp_path)
    (tmp_path / "base").symlink_to(finished.aligned.model.path)
    monkeypatch.chdir(tmp_path)
    lines = Diffusers().usage(finished.aligned, "out").splitlines()
    assert all(line.startswith("    ") for line in lines if line)
    found: dict[str, Any] = {}
    exec("\n".join(line[4:] for line in lines if "image =" not in line), found)
    finished.agrees(getattr(found["pipeline"], finished.backbone.denoiser_name))


def test_merged_predicts_the_same(finished: Finished, tmp_path: Path) -> None:
    pipeline = finished.backbone.pipeline_class.from_pretrained(finished.write(Merged(), tmp_path))
    denoiser = getattr(pipeline, finished.backbone.denoiser_name)
    finished.agrees(denoiser)
    assert not [name for name, _ in denoiser.named_parameters() if "lora" in name]


@pytest.mark.parametrize(("how", "known"), [(Kohya(), KOHYA), (ComfyUI(), COMFYUI)], ids=["kohya", "comfyui"])
def test_other_tools(how: Export, known: set[str], finished: Finished, tmp_path: Path) -> None:
    """U-Nets through diffusers' reader of kohya's names; transformers by hand, weight by weight."""
    name = components.name_of(finished.backbone)
    if name not in known:
        with pytest.raises(InputError, match=f"no such format for {finished.aligned.pipeline_class}: use --format"):
            finished.write(how, tmp_path)
        return
    file, pipeline = finished.write(how, tmp_path), finished.plain()
    if finished.backbone.denoiser_name == "unet":
        pipeline.load_lora_weights(file)
    elif isinstance(how, Kohya) or name == "lumina2":
        add_fused(pipeline.transformer, load_file(file))
    else:
        add(pipeline.transformer, load_file(file))
    finished.agrees(getattr(pipeline, finished.backbone.denoiser_name))


@pytest.mark.parametrize("name", sorted(COMFYUI - {"sd", "sdxl", "lumina2"}))
def test_modules_that_comfyui_would_skip_are_refused(name: str, tmp_path: Path) -> None:
    cls = components.find(Backbone, name)
    other = {"z_image": "mlp.0", "hidream": "linear_1"}.get(name, "proj_out")
    backbone, adaptation = cls.tiny(), LoRA(targets=("to_q", other))
    for parameter in adaptation.parameters(adaptation.attach(backbone, 0).policy):
        parameter.data += 1
    adaptation.save(backbone, tmp_path / "aligned")
    with pytest.raises(InputError, match=rf"ComfyUI has no place for (\w+\.)*{other}: use --format"):
        export(
            Aligned("small", tmp_path / "aligned", Model("x", name), cls), ComfyUI(), tmp_path / "x.safetensors", ""
        )
    assert [path.name for path in tmp_path.iterdir()] == ["aligned"]
