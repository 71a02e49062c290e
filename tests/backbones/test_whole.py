"""A model that is not whole, or not what it says, is refused in one line that names the part, before or at loading."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline, StableDiffusionImg2ImgPipeline
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from ddspo import components
from ddspo.backbones._loading import _finite
from ddspo.backbones._model import LARGEST
from ddspo.backbones._outline import outline
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.qwen_image import QwenImage
from ddspo.backbones.sd import SD
from ddspo.errors import InputError

UNET, VAE, TEXT = (
    f"{name}.safetensors"
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")
)
WEIGHTS = [UNET, VAE, TEXT]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def refused(folder: Path, model: Model | None = None) -> str:
    """What the checks before loading say, or else loading itself: one line that begins with the model's place."""
    with pytest.raises(InputError) as caught:
        SD.load(model or Model(str(folder)))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message.removeprefix(f"model.path {folder}: ")


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(edit(load_file(path)), path, {"format": "pt"})


def configure(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", WEIGHTS)
def test_missing_weights_are_named(folder: Path, name: str) -> None:
    keys = sorted(load_file(folder / name))[::2]
    change(folder / name, lambda weights: {key: value for key, value in weights.items() if key not in keys})
    part, message = name.split("/")[0], refused(folder)
    assert message.startswith(f"{part}: ")
    assert (
        f" and {len(keys) - 1} more are missing or of another size: its files are damaged or of another model"
        in message
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_no_layer_takes_are_named(folder: Path, name: str) -> None:
    change(folder / name, lambda weights: weights | {"surplus.weight": torch.zeros(2)})
    assert refused(folder).startswith(f"{name.split('/')[0]}: surplus.weight is not known to its class")


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, name: str, value: float) -> None:
    key = sorted(load_file(folder / name))[-1]

    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights[key].view(-1)[-1] = value
        return weights

    change(folder / name, edit)
    message = refused(folder)
    assert message.startswith(f"{name.split('/')[0]}: ")
    assert key.rpartition(".")[2] in message
    assert " is not finite: its files are damaged" in message


def test_weights_that_half_precision_cannot_hold(folder: Path) -> None:
    change(folder / UNET, lambda weights: weights | {"conv_in.bias": torch.full((16,), 1e5)})
    message = refused(folder, Model(str(folder), dtype="fp16"))
    assert (
        message
        == "unet: conv_in.bias is not finite: its files are damaged or fp16 cannot hold them (model.dtype=bf16)"
    )
    SD.load(Model(str(folder), dtype="bf16"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_finite(dtype: torch.dtype) -> None:
    """The largest numbers, whose sum is not, are; one number that is none among many is found wherever it is."""
    whole = torch.full((3, 1001), torch.finfo(dtype).max, dtype=dtype)
    assert _finite(whole)
    assert _finite(whole[:0])
    for value in (math.nan, math.inf, -math.inf):
        for place in (0, 500, 1000):
            broken = whole.clone()
            broken[1, place] = value
            assert not _finite(broken)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("damage", [lambda _: b"", lambda data: b"\xff" * len(data), lambda data: data[:-100]])
def test_damaged_weights(folder: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(InputError, match=rf"{name} is damaged \(.*\): get the folder anew"):
        SD.check(Model(str(folder)))


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_another_size(folder: Path, name: str) -> None:
    key = sorted(load_file(folder / name))[0]
    change(folder / name, lambda weights: weights | {key: torch.zeros(3, 1)})
    assert key.removeprefix("text_model.") in refused(folder)


def test_a_pipeline_that_was_saved_with_a_lora(folder: Path) -> None:
    pipeline = SD.tiny().pipeline
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    pipeline.save_pretrained(folder)
    assert refused(folder).startswith(
        "unet: saved while a LoRA was loaded: call fuse_lora() and unload_lora_weights()"
    )


def test_an_adapter_beside_the_weights(folder: Path) -> None:
    (folder / "text_encoder/adapter_config.json").write_text("{}")
    assert refused(folder).startswith("text_encoder holds an adapter beside its weights: merge the two")


def shard(folder: Path, name: str, part: str) -> None:
    """Weights in two files and an index, as large models have them."""
    weights = load_file(folder / name)
    keys, stem = sorted(weights), name.removesuffix(".safetensors")
    where = {key: f"{part}-0000{1 + (key > keys[4])}-of-00002.safetensors" for key in keys}
    for file in set(where.values()):
        some = {key: weights[key] for key in keys if where[key] == file}
        save_file(some, (folder / name).with_name(file), {"format": "pt"})
    size = sum(value.nbytes for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    (folder / name).unlink()


@pytest.mark.parametrize(("name", "part"), [(UNET, "diffusion_pytorch_model"), (TEXT, "model")])
def test_weights_in_several_files(tiny_folder: Path, folder: Path, name: str, part: str) -> None:
    shard(folder, name, part)
    whole, found = SD.load(Model(str(tiny_folder))).pipeline, SD.load(Model(str(folder))).pipeline
    for network in ("unet", "text_encoder"):
        ours, theirs = (getattr(each, network).state_dict() for each in (found, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    (folder / name).with_name(f"{part}-00002-of-00002.safetensors").unlink()
    assert refused(folder).startswith(f"{name.split('/')[0]} not loaded: ")


@pytest.mark.parametrize(
    "also",
    [{"encoder.embed_tokens.weight": "shared.weight"}, {"decoder.block.0.layer.0.SelfAttention.k.weight": None}],
)
def test_tied_weights_and_a_decoder_are_no_fault(tmp_path: Path, also: dict[str, str | None]) -> None:
    """As in official folders of T5: its embeddings twice, and a half that no pipeline uses."""
    base = components.find(Backbone, "sd3").tiny()
    base.save(tmp_path)

    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return weights | {new: weights[old].clone() if old else torch.zeros(2) for new, old in also.items()}

    change(tmp_path / "text_encoder_3/model.safetensors", edit)
    found = type(base).load(Model(str(tmp_path), max_length=24))
    ours, theirs = (each.encode(["a b"])["encoder_hidden_states"] for each in (found, base))
    torch.testing.assert_close(ours, theirs)


def test_old_names_and_buffers_are_no_fault(tiny_folder: Path, folder: Path) -> None:
    """What official folders of SD 1.5 hold: positions in the text encoder, other names in the autoencoder."""
    change(folder / TEXT, lambda weights: weights | {"text_model.embeddings.position_ids": torch.arange(16)[None]})
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(key: str) -> str:
        for new, before in old.items():
            key = key.replace(f".{new}.", f".{before}.")
        return key

    change(folder / VAE, lambda weights: {rename(key): value for key, value in weights.items()})
    assert any("proj_attn" in key for key in load_file(folder / VAE))
    whole, found = SD.load(Model(str(tiny_folder))).pipeline, SD.load(Model(str(folder))).pipeline
    ours, theirs = found.vae.state_dict(), whole.vae.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_variant(folder: Path) -> None:
    for name in WEIGHTS:
        shutil.move(folder / name, (folder / name).with_suffix(".fp16.safetensors"))
    assert refused(folder) == "text_encoder has weights of variant fp16 only: model.variant=fp16"
    assert refused(folder, Model(str(folder), variant="bf16")).startswith("model.variant bf16: ")
    assert torch.isfinite(next(SD.load(Model(str(folder), variant="fp16")).denoiser.parameters())).all()
    shutil.move((folder / TEXT).with_suffix(".fp16.safetensors"), folder / TEXT)
    SD.load(Model(str(folder), variant="fp16"))


def test_pickles_are_not_read(folder: Path) -> None:
    (folder / UNET).unlink()
    assert refused(folder) == "unet has no weights (*.safetensors): get the folder anew"
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch was-run'\ntR.")
    assert refused(folder).startswith("unet has no safetensors, and pickles may run code: where you trust them, load")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe\x00", b"[" * 100_000, b"{}" + b" " * LARGEST],
    ids=["empty", "cut", "list", "number", "null", "not UTF-8", "deep", "huge"],
)
@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"])
def test_damaged_configurations(folder: Path, name: str, text: bytes) -> None:
    (folder / name).write_bytes(text)
    assert refused(folder) == f"its {name} is damaged: get the folder anew"


def test_an_index_without_a_class(folder: Path) -> None:
    for kind in (None, 3, ["a", "b"]):
        configure(folder / "model_index.json", _class_name=kind)
        assert refused(folder).startswith("its model_index.json names no class of diffusers: give")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_missing(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert refused(folder) == f"its folder {part} is missing: get the folder anew"
    configure(folder / "model_index.json", **{part: [None, None]})
    assert refused(folder).startswith(f"it has no {part}, which a StableDiffusionPipeline needs: give a whole")


@pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "unet/config.json", "vae/config.json"])
def test_a_configuration_that_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refused(folder) == f"no {name} there: give a diffusers pipeline folder"


@pytest.mark.parametrize(
    "part", ["unet", "tokenizer", "feature_extractor", "safety_checker", "image_encoder", "other"]
)
def test_an_index_cannot_import(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Parts that are used come from the two libraries, and those that are not are not looked at."""
    (tmp_path / "evilpkg").mkdir()
    (tmp_path / "evilpkg/__init__.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    configure(folder / "model_index.json", **{part: ["evilpkg", "Part"]})
    if part in ("unet", "tokenizer", "other"):
        assert refused(folder) == f"{part} is a evilpkg.Part, which is no class of diffusers or transformers"
    else:
        SD.load(Model(str(folder)))


@pytest.mark.parametrize("channels", [8, 9])
def test_a_denoiser_that_takes_an_image_or_a_mask(folder: Path, channels: int) -> None:
    configure(folder / "unet/config.json", in_channels=channels)
    message = f"its unet takes {channels} channels, and one that makes images from text alone takes 4"
    assert refused(folder).startswith(message)
    with pytest.raises(InputError, match=message):
        outline(SD, Model(str(folder)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/somewhere/model.safetensors",
            "one file, and a diffusers folder is needed: make it with `ddspo convert FILE FOLDER`",
        ),
        ("model.ckpt", "one file, and a diffusers folder is needed"),
        ("somebody/model.safetensors", "one file, and a diffusers folder is needed"),
        ("https://huggingface.co/a/b/resolve/main/x.safetensors", "one file, and a diffusers folder is needed"),
        ("https://huggingface.co/a/b", "give a diffusers folder on this machine, or a hub id as OWNER/NAME"),
        ("s3://bucket/model", "give a diffusers folder on this machine, or a hub id as OWNER/NAME"),
        ("", "no model_index.json there: give a diffusers pipeline folder"),
    ],
)
def test_places_that_are_no_folder(path: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        components.backbone_of(Model(path))
    assert str(caught.value).startswith(f"model.path {path}: {message}")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("sd", "StableDiffusionImg2ImgPipeline"),
        ("sd", "StableDiffusionInpaintPipeline"),
        ("sdxl", "StableDiffusionXLImg2ImgPipeline"),
        ("sdxl", "StableDiffusionXLInpaintPipeline"),
        ("sd3", "StableDiffusion3Img2ImgPipeline"),
        ("sd3", "StableDiffusion3InpaintPipeline"),
        ("flux", "FluxImg2ImgPipeline"),
        ("flux", "FluxInpaintPipeline"),
    ],
)
def test_a_pipeline_of_another_task_is_read_by_its_text_to_image_part(name: str, other: str, tmp_path: Path) -> None:
    """It is loaded, outlined and saved as the class that makes images from text."""
    cls: type[Backbone] = components.find(Backbone, name)
    cls.tiny().save(tmp_path / "model")
    configure(tmp_path / "model/model_index.json", _class_name=other, requires_aesthetics_score=False)
    model = Model(str(tmp_path / "model"), resolution=16)
    assert components.backbone_of(model) is cls
    loaded = cls.load(model)
    assert type(loaded.pipeline) is cls.pipeline_class
    assert type(outline(cls, model).pipeline) is cls.pipeline_class
    loaded.save(tmp_path / "saved")
    index = json.loads((tmp_path / "saved/model_index.json").read_text())
    assert index["_class_name"] == cls.pipeline_class.__name__


def test_a_folder_that_was_saved_by_another_task(tmp_path: Path) -> None:
    base = SD.tiny()
    StableDiffusionImg2ImgPipeline(**base.pipeline.components, requires_safety_checker=False).save_pretrained(tmp_path)
    found = SD.load(Model(str(tmp_path)))
    assert torch.equal(found.generate(["a"], [1], 2, 2.0), base.generate(["a"], [1], 2, 2.0))


def test_a_saved_folder_says_what_it_was_told(tmp_path: Path) -> None:
    """The recipe comes first; diffusers reads the folder as ever; a damaged number is one line."""
    tiny = QwenImage.tiny()
    QwenImage.of(tiny.pipeline, Model("x", resolution=32, max_length=150)).save(tmp_path)
    loaded = QwenImage.load(Model(str(tmp_path)))
    assert (loaded.call["height"], loaded.max_length) == (32, 150)
    outlined = outline(QwenImage, Model(str(tmp_path), resolution=16))
    assert (outlined.call["height"], outlined.max_length) == (16, 150)
    assert QwenImagePipeline.from_pretrained(tmp_path).transformer.config.num_layers == 2
    index = tmp_path / "model_index.json"
    for wrong in ('"a"', "-16", "true", "1e9", "[16]"):
        index.write_text(re.sub(r'"_resolution": [^\n]*', f'"_resolution": {wrong},', index.read_text()))
        with pytest.raises(InputError, match=r"its model_index\.json says _resolution .*: give a number"):
            QwenImage.load(Model(str(tmp_path)))
