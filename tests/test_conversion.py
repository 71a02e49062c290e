"""A model in one file becomes a folder whose predictions are the same to the bit; LoRA files are merged into it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from benchmarks import outlines
from ddspo import components, conversion, origins
from ddspo.backbones import _original
from ddspo.backbones._outline import outline
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.flux import Flux
from ddspo.backbones.flux2 import Flux2
from ddspo.backbones.flux2_dev import Flux2Dev
from ddspo.backbones.qwen_image import QwenImage
from ddspo.backbones.sd import SD
from ddspo.backbones.sd3 import SD3
from ddspo.backbones.sdxl import SDXL
from ddspo.backbones.z_image import ZImage
from ddspo.cli import app
from ddspo.conversion import Origin, configured, converted
from ddspo.errors import InputError
from ddspo.files import PARTIAL
from tests import originals

KINDS = {"sd": (SD, originals.sd), "sdxl": (SDXL, originals.sdxl)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sd/ and sdxl/, and sd.safetensors and sdxl.safetensors, which hold the same."""
    folder = tmp_path_factory.mktemp("originals")
    for name, (kind, names) in KINDS.items():
        backbone = kind.tiny()
        backbone.save(folder / name)
        originals.write(folder / f"{name}.safetensors", names(backbone.pipeline))
    return folder


def prediction(backbone: Backbone) -> Tensor:
    condition = backbone.encode(["a red cube", "two dogs"])
    x_t = backbone.initial_noise([1, 2])
    with torch.no_grad():
        latents = backbone.predict(backbone.denoiser, x_t, torch.tensor([10.0, 700.0]), condition)
    return torch.cat([latents.flatten(), torch.tensor(backbone.decode(latents)[0]).flatten()])


@pytest.mark.parametrize("name", KINDS)
def test_the_folder_predicts_what_the_file_does(models: Path, tmp_path: Path, name: str) -> None:
    kind, _ = KINDS[name]
    converted(Origin(str(models / f"{name}.safetensors"), config=str(models / name)), tmp_path / "new")
    assert torch.equal(
        prediction(kind.load(Model(str(tmp_path / "new")))), prediction(kind.load(Model(str(models / name))))
    )
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = (next((place / part).glob("*.safetensors")) for place in (tmp_path / "new", models / name))
        assert ours.name == theirs.name
        old, new = load_file(theirs), load_file(ours)
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)


def test_the_folder_is_what_diffusers_makes_of_the_file(models: Path, tmp_path: Path) -> None:
    converted(Origin(str(models / "sd.safetensors"), config=str(models / "sd")), tmp_path / "new")
    theirs = StableDiffusionPipeline.from_single_file(str(models / "sd.safetensors"), config=str(models / "sd"))
    ours = StableDiffusionPipeline.from_pretrained(tmp_path / "new")
    for part in ("unet", "vae", "text_encoder"):
        mine, wanted = (getattr(pipeline, part).state_dict() for pipeline in (ours, theirs))
        assert mine.keys() == wanted.keys()
        assert all(torch.equal(mine[name], wanted[name]) for name in mine)


def test_sd3_with_all_its_encoders(tmp_path: Path) -> None:
    """The projection of its first CLIP is no part of such files: diffusers takes the identity."""
    backbone = SD3.tiny()
    width = backbone.pipeline.text_encoder.text_projection.weight
    width.data = torch.eye(len(width))
    backbone.save(tmp_path / "sd3")
    file = originals.write(tmp_path / "sd3.safetensors", originals.sd3(backbone.pipeline))
    converted(Origin(str(file), config=str(tmp_path / "sd3")), tmp_path / "new")
    assert torch.equal(
        prediction(SD3.load(Model(str(tmp_path / "new"), max_length=24))),
        prediction(SD3.load(Model(str(tmp_path / "sd3"), max_length=24))),
    )


@pytest.mark.parametrize("kind", [Flux2, Flux2Dev, QwenImage, ZImage])
def test_a_transformer_alone_beside_the_folder_of_its_kind(kind: type[Backbone], tmp_path: Path) -> None:
    """Chroma and Lumina 2 are not there: diffusers' rules for them know one width, that of the real models."""
    backbone, names = kind.tiny(), getattr(originals, components.name_of(kind).removesuffix("_dev"))
    backbone.save(tmp_path / "base")
    with torch.no_grad():
        for parameter in backbone.denoiser.parameters():
            parameter += 0.1 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1))
    file = originals.write(tmp_path / "mine.safetensors", names(backbone.pipeline))
    assert (_original.family(_original.header(file).weights) == "flux-2-dev") == (kind is Flux2Dev)
    converted(Origin(str(file), config=str(tmp_path / "base")), tmp_path / "new")
    own, new = backbone.denoiser.state_dict(), kind.load(Model(str(tmp_path / "new"))).denoiser.state_dict()
    assert own.keys() == new.keys()
    assert all(torch.equal(own[name], new[name]) for name in own)


@pytest.mark.parametrize(
    ("kind", "said"), [(Flux2, "FLUX.2-klein-4B (distilled)"), (ZImage, "Z-Image-Turbo (distilled)")]
)
def test_files_that_do_not_say_whether_they_are_distilled(kind: type[Backbone], said: str, tmp_path: Path) -> None:
    names = getattr(originals, components.name_of(kind))
    file = originals.write(tmp_path / "mine.safetensors", names(kind.tiny().pipeline))
    with pytest.raises(InputError, match=re.escape(said)) as raised:
        configured(Origin(str(file)), tmp_path / "new")
    assert len(str(raised.value).splitlines()) == 1


SIZES = {
    "sd15": (originals.sd, "v1"),
    "sdxl": (originals.sdxl, "xl_base"),
    "sd35-medium": (originals.sd3, "sd35_medium"),
    "flux-dev": (originals.flux, "flux-dev"),
    "flux2-klein-4b": (originals.flux2, "flux-2-klein"),
    "chroma": (originals.chroma, "chroma"),
    "lumina2": (originals.lumina2, "lumina2"),
    "z-image": (originals.z_image, "z-image-turbo"),
    "qwen-image": (originals.qwen_image, "qwen-image"),
}
PARTS = ("vae", "text_encoder", "text_encoder_2")
"""What is not in files that hold a transformer alone."""


@pytest.mark.parametrize("name", SIZES)
def test_files_of_true_size_are_known_by_their_headers(tmp_path: Path, name: str) -> None:
    """The files hold no weights at all: whatever read them would read zeros, or fill the memory."""
    names, family = SIZES[name]
    folder = outlines.write(name, tmp_path / name)
    whole = outline(components.backbone_of(Model(str(folder))), Model(str(folder)))
    file = originals.write_header(tmp_path / "file.safetensors", names(whole.pipeline))
    assert _original.family(_original.header(file).weights) == family
    if not any(each.startswith("first_stage_model.") for each in _original.header(file).weights):
        with pytest.raises(InputError, match=r"it holds no \w+, and .* has no weights of it: give --config"):
            configured(Origin(str(file), config=str(folder)), tmp_path / "new")
        for part in (each for each in PARTS if (folder / each).is_dir()):
            save_file({}, folder / part / "model.safetensors")
    configured(Origin(str(file), config=str(folder)), tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*.safetensors"))
    assert outline(type(whole), Model(str(tmp_path / "new"))).latent_shape == whole.latent_shape


def lora(backbone: Backbone, path: Path, seed: int = 1, targets: tuple[str, ...] = ("to_q", "to_v", "_proj")) -> Path:
    """Layers of rank 2 in diffusers' own names; without an alpha, which is then the rank."""
    noise, weights = torch.Generator().manual_seed(seed), {}
    for part in ("unet", "text_encoder"):
        for name, layer in getattr(backbone.pipeline, part).named_modules():
            if isinstance(layer, torch.nn.Linear) and name.endswith(targets):
                weights[f"{part}.{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=noise)
                weights[f"{part}.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=noise)
    save_file(weights, path)
    return path


def kohya(path: Path, to: Path) -> Path:
    """The same change as its tools name it: one word a module, and alpha 4 of rank 2 beside half of the change."""
    weights: dict[str, Tensor] = {}
    for name, value in load_file(path).items():
        part, _, rest = name.partition(".")
        module, _, end = rest.rpartition(".lora_")
        if part == "text_encoder":
            module = f"text_model.{module}"
        new = f"{'lora_unet' if part == 'unet' else 'lora_te'}_{module.replace('.', '_')}"
        weights[f"{new}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = value / 2 if end[0] == "B" else value
        weights[f"{new}.alpha"] = torch.tensor(4.0)
    save_file(weights, to)
    return to


@pytest.mark.parametrize("names", ["diffusers", "kohya"])
@pytest.mark.parametrize("source", ["sd.safetensors", "sd"])
def test_a_lora_is_merged_as_diffusers_merges_it(models: Path, tmp_path: Path, names: str, source: str) -> None:
    file = lora(SD.load(Model(str(models / "sd"))), tmp_path / "style.safetensors")
    if names == "kohya":
        file = kohya(file, tmp_path / "kohya.safetensors")
    config = str(models / "sd") if source.endswith("safetensors") else None
    converted(Origin(str(models / source), (f"{file}:0.5",), config), tmp_path / "new")
    wanted = SD.load(Model(str(models / "sd")))
    before = prediction(wanted)
    wanted.pipeline.load_lora_weights(str(tmp_path), weight_name="style.safetensors")
    wanted.pipeline.fuse_lora(lora_scale=0.5)
    merged = prediction(SD.load(Model(str(tmp_path / "new"))))
    assert torch.equal(merged, prediction(wanted))
    assert not torch.allclose(merged, before, atol=1e-3)


def test_several_loras_add_up(models: Path, tmp_path: Path) -> None:
    """W + B A of the first + B A / 2 of the second, in float32 within its rounding."""
    first = lora(SD.tiny(), tmp_path / "first.safetensors", 1)
    second = lora(SD.tiny(), tmp_path / "second.safetensors", 2)
    converted(Origin(str(models / "sd"), (str(first), f"{second}:0.5")), tmp_path / "new")
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = [load_file(next((place / "unet").glob("*.safetensors"))) for place in (models / "sd", tmp_path / "new")]
    changes = []
    for file, scale in ((first, 1.0), (second, 0.5)):
        layers = load_file(file)
        up, down = layers[f"unet.{name}.lora_B.weight"], layers[f"unet.{name}.lora_A.weight"]
        changes.append(scale * up @ down)
    assert torch.allclose(weights[1][f"{name}.weight"], weights[0][f"{name}.weight"] + sum(changes), atol=1e-5)


def layers_of(path: Path, rename: dict[str, str]) -> Path:
    weights = load_file(path)
    for old, new in rename.items():
        weights = {name.replace(old, new): value for name, value in weights.items()}
    save_file(weights, path)
    return path


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"unet.": "transformer."}, "is no part of a StableDiffusionPipeline: give a LoRA of this model's family"),
        ({"mid_block": "middle"}, "unet has no 'middle.attentions.0"),
        ({"lora_A.weight": "dora_scale"}, "it is a DoRA, and only LoRA is merged"),
        ({"lora_A.weight": "diff"}, "which is no LoRA: give a file of LoRA layers alone"),
    ],
)
def test_layers_that_the_model_has_not_are_refused(
    models: Path, tmp_path: Path, rename: dict[str, str], message: str
) -> None:
    """peft would leave out what matches nothing, and say so where nobody looks."""
    file = layers_of(lora(SD.tiny(), tmp_path / "style.safetensors"), rename)
    with pytest.raises(InputError, match=re.escape(message)):
        converted(Origin(str(models / "sd"), (str(file),)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_lora_of_another_model_is_refused(models: Path, tmp_path: Path) -> None:
    """SDXL's text is wider: 32 numbers a token here, where SD has 16."""
    file = lora(SDXL.tiny(), tmp_path / "style.safetensors", targets=("attn2.to_k",))
    with pytest.raises(
        InputError, match=r"lora_A.weight' is \(2, 32\) beside weights of \(16, 16\): it is of another"
    ):
        configured(Origin(str(models / "sd"), (str(file),)), tmp_path / "new")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.safetensors", "no such file"),
        ("style.bin", "give FILE.safetensors, or FILE.safetensors:0.8"),
        ("sd.safetensors:zero", "scale 'zero': give a number other than 0, at most 10"),
        ("sd.safetensors:0", "scale '0': give a number other than 0"),
        ("sd.safetensors:nan", "scale 'nan': give a number other than 0"),
    ],
)
def test_a_lora_that_is_none(models: Path, tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        configured(Origin(str(models / "sd"), (str(models / given),)), tmp_path / "new")


def test_what_was_made_is_kept_and_what_changed_is_made_anew(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(shutil.copy(models / "sd.safetensors", tmp_path))
    origin, folder = Origin(str(file), config=str(models / "sd")), tmp_path / "new"
    configured(origin, folder)
    assert not list(folder.rglob("*.safetensors"))
    converted(origin, folder)
    made = (folder / "unet" / "config.json").stat().st_ino
    monkeypatch.setattr(origins, "outline", None)  # nothing is built to see that nothing changed
    converted(origin, folder)
    configured(origin, folder)
    monkeypatch.undo()
    assert (folder / "unet" / "config.json").stat().st_ino == made
    weights = load_file(file)
    save_file({name: value + 1 for name, value in weights.items()}, file)
    converted(origin, folder)
    assert (folder / "unet" / "config.json").stat().st_ino != made
    converted(origin, folder, "fp16")
    assert SD.load(Model(str(folder))).config.sample_size == 8
    assert next(iter(load_file(next((folder / "vae").glob("*.safetensors"))).values())).dtype == torch.float16


def test_nothing_of_anyones_is_overwritten(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sdxl", tmp_path / "mine")
    with pytest.raises(InputError, match="it is there, and was not made by `ddspo convert`: give another folder"):
        converted(Origin(str(models / "sd.safetensors"), config=str(models / "sd")), tmp_path / "mine")


def test_where_writing_fails_nothing_is_left(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        converted(Origin(str(models / "sd.safetensors"), config=str(models / "sd")), tmp_path / "new")
    assert not list(tmp_path.rglob(PARTIAL))
    assert not (tmp_path / "new").exists()


def test_room_is_looked_for_first(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 2**27))
    with pytest.raises(InputError, match=r"new: 0.3 GiB are needed, and 0.1 GiB are free there"):
        converted(Origin(str(models / "sd.safetensors"), config=str(models / "sd")), tmp_path / "new")


def test_parts_that_a_file_lacks_are_those_of_the_configuration(models: Path, tmp_path: Path) -> None:
    weights = originals.unet(SD.tiny().denoiser.state_dict(), 1)
    file = originals.write(tmp_path / "unet.safetensors", {name: 2 * value for name, value in weights.items()})
    converted(Origin(str(file), config=str(models / "sd")), tmp_path / "new")
    ours, theirs = (SD.load(Model(str(place))) for place in (tmp_path / "new", models / "sd"))
    for part in ("vae", "text_encoder"):
        mine, wanted = (getattr(each.pipeline, part).state_dict() for each in (ours, theirs))
        assert all(torch.equal(mine[name], wanted[name]) for name in wanted)
    assert torch.equal(ours.denoiser.conv_in.weight, 2 * theirs.denoiser.conv_in.weight)


def test_a_transformer_alone_in_diffusers_own_names(tmp_path: Path) -> None:
    backbone = Flux.tiny()
    backbone.save(tmp_path / "flux")
    weights = {name: value + 1 for name, value in backbone.denoiser.state_dict().items()}
    file = originals.write(tmp_path / "flux.safetensors", weights)
    converted(Origin(str(file), config=str(tmp_path / "flux")), tmp_path / "new")
    new = Flux.load(Model(str(tmp_path / "new"), max_length=24)).denoiser.state_dict()
    assert all(torch.equal(new[name], value) for name, value in weights.items())


def test_plain_fp8_is_read_and_other_quantisation_refused(models: Path, tmp_path: Path) -> None:
    """fp8 has 3 bits after the leading one, so a weight is within 1/16 of what it was; bf16 holds it to the bit."""
    weights = originals.sd(SD.tiny().pipeline)
    file = originals.write(tmp_path / "fp8.safetensors", weights, torch.float8_e4m3fn)
    converted(Origin(str(file), config=str(models / "sd")), tmp_path / "new")
    found = load_file(next((tmp_path / "new" / "unet").glob("*.safetensors")))["conv_in.weight"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, SD.tiny().denoiser.conv_in.weight.to(torch.float8_e4m3fn).to(torch.bfloat16))
    save_file({"scaled_fp8": torch.zeros(2), **{name: value.contiguous() for name, value in weights.items()}}, file)
    with pytest.raises(InputError, match="its weights are quantised: give the file in bf16, fp16 or plain fp8"):
        configured(Origin(str(file), config=str(models / "sd")), tmp_path / "other")


def test_fine_tunes_of_sdxl_that_predict_v_say_so_by_a_name(models: Path, tmp_path: Path) -> None:
    """Read as predictions of noise, all that they draw is noise."""
    marks = {name: torch.zeros(0) for name in ("v_pred", "ztsnr")}
    file = originals.write(tmp_path / "v.safetensors", originals.sdxl(SDXL.tiny().pipeline) | marks)
    converted(Origin(str(file), config=str(models / "sdxl")), tmp_path / "new")
    backbone = SDXL.load(Model(str(tmp_path / "new")))
    assert backbone.path.prediction == "v_prediction"
    assert backbone.pipeline.scheduler.config.rescale_betas_zero_snr


def test_what_is_wrong_with_a_file_is_one_line(models: Path, tmp_path: Path) -> None:
    weights, wide = load_file(models / "sd.safetensors"), torch.zeros(1, 1024)
    cases: list[tuple[dict[str, Tensor], str, str]] = [
        ({"blocks.0.weight": torch.zeros(1)}, "", "no text-to-image model that is known by the names of its weights"),
        (weights, "", "its configuration is that of stable-diffusion-v1-5/stable-diffusion-v1-5: no such folder here"),
        (weights, str(models / "sdxl"), "unet: not of this family"),
        (weights, str(tmp_path / "none" / "x"), "--config "),
        ({key: value for key, value in weights.items() if "out.2" not in key}, str(models / "sd"), "missing or of an"),
        ({key: value for key, value in weights.items() if "model.d" not in key}, str(models / "sd"), "holds no unet"),
        (
            weights | {"model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": wide},
            "",
            "--config stabilityai/stable-diffusion-2-1 (768 pixels, v) or stabilityai/stable-diffusion-2-1-base",
        ),
    ]
    for held, config, message in cases:
        save_file(held, tmp_path / "file.safetensors")
        with pytest.raises(InputError, match=re.escape(message)) as raised:
            converted(Origin(str(tmp_path / "file.safetensors"), config=config or None), tmp_path / "new")
        assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kept", [4, 100, 5000])
def test_a_file_that_was_not_fetched_to_its_end(models: Path, tmp_path: Path, kept: int) -> None:
    (tmp_path / "half.safetensors").write_bytes((models / "sd.safetensors").read_bytes()[:kept])
    with pytest.raises(InputError, match="damaged, or not fetched to its end: get the file anew"):
        configured(Origin(str(tmp_path / "half.safetensors"), config=str(models / "sd")), tmp_path / "new")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("sd.ckpt", "only .safetensors is read"),
        ("none.safetensors", "no such file: give the path of one that is on this machine"),
        ("sd", "a folder already, and no --lora to merge"),
    ],
)
def test_places_that_are_not_converted(models: Path, tmp_path: Path, place: str, message: str) -> None:
    (models / "sd.ckpt").touch()
    with pytest.raises(InputError, match=re.escape(message)):
        converted(Origin(str(models / place)), tmp_path / "new")


def test_the_command(models: Path, tmp_path: Path) -> None:
    file = lora(SD.tiny(), tmp_path / "style.safetensors")
    given = [str(models / "sd.safetensors"), str(tmp_path / "new"), "--config", str(models / "sd"), "--dtype", "bf16"]
    done = CliRunner().invoke(app, ["convert", *given, "--lora", f"{file}:0.7"])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "new")
    note = json.loads((tmp_path / "new" / "origin.json").read_text())
    assert note["origin"]["loras"] == [f"{file}:0.7"]
    assert SD.load(Model(str(tmp_path / "new"), dtype="bf16")).denoiser.dtype == torch.bfloat16
