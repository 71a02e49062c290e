"""What is particular to one backbone: options, precisions, missing parts, and what is said of long prompts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ddspo.backbones.auraflow import AuraFlow
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.chroma import Chroma
from ddspo.backbones.cogview4 import CogView4
from ddspo.backbones.flux import Flux
from ddspo.backbones.flux2 import Flux2
from ddspo.backbones.flux2_dev import Flux2Dev
from ddspo.backbones.hidream import HiDream
from ddspo.backbones.kolors import Kolors
from ddspo.backbones.lumina2 import Lumina2
from ddspo.backbones.pixart import PixArt
from ddspo.backbones.pixart_alpha import PixArtAlpha
from ddspo.backbones.qwen_image import QwenImage
from ddspo.backbones.sana import INSTRUCTION, Sana
from ddspo.backbones.sd import SD
from ddspo.backbones.sd3 import SD3
from ddspo.backbones.sdxl import SDXL
from ddspo.backbones.z_image import ZImage
from ddspo.errors import InputError
from ddspo.recipe import load
from ddspo.scenes.networks import MINIATURES, make_autoencoder, make_tokenizer
from ddspo.workflow import Workflow

ALL = [
    AuraFlow,
    Chroma,
    CogView4,
    Flux,
    Flux2,
    Flux2Dev,
    HiDream,
    Kolors,
    Lumina2,
    PixArt,
    PixArtAlpha,
    QwenImage,
    Sana,
    SD,
    SD3,
    SDXL,
    ZImage,
]
PROMPTS = ["a red cube", "two cats", "x"]


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (SD, {"max_length": 20}, "model.max_length 20: a StableDiffusionPipeline has no text encoder but CLIP"),
        (SDXL, {"distilled_guidance": 3.0}, "model.distilled_guidance: this StableDiffusionXLPipeline has no"),
        (SD, {"resolution": 17}, "model.resolution 17: give a multiple of 2"),
        (SD3, {"resolution": 18}, "model.resolution 18: give a multiple of 4"),
        (Flux, {"resolution": 18}, "model.resolution 18: give a multiple of 4"),
    ],
)
def test_an_option_without_a_meaning_is_refused(cls: type[Backbone], options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cls.of(cls.tiny().pipeline, Model("x", **options))


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls is not HiDream])
def test_another_resolution(cls: type[Backbone]) -> None:
    small = cls.tiny()
    side = 2 * small.call["height"]
    large = cls.of(small.pipeline, Model("x", resolution=side, max_length=small.max_length))
    channels, height, width = small.latent_shape
    assert large.latent_shape == (channels, 2 * height, 2 * width)
    latents = large.generate(PROMPTS, [1, 2, 3], 1, 1.0)
    assert large.decode(latents)[0].shape == (side, side, 3)


@pytest.mark.parametrize("cls", [SDXL, Kolors])
def test_sizes_of_sdxl(cls: type[Backbone]) -> None:
    """Original height and width, top and left of the crop, target height and width."""
    condition = cls.of(cls.tiny().pipeline, Model("x", resolution=32)).encode(["x", "y"])
    assert condition["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 2


def test_v_prediction_of_sdxl() -> None:
    backbone = SDXL.tiny()
    backbone.pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    assert backbone.path.space == "v"


def test_a_missing_t5_is_zeros() -> None:
    """As the miniature of a flow has it: 16 tokens of the CLIPs, then `max_length` zeros."""
    pipeline = SD3.tiny().pipeline
    pipeline.text_encoder_3 = pipeline.tokenizer_3 = None
    backbone = SD3.of(pipeline, Model("x", max_length=5))
    hidden = backbone.encode(PROMPTS)["encoder_hidden_states"]
    assert hidden.shape[:2] == (3, 16 + 5)
    assert not hidden[:, 16:].any()
    assert len(backbone.readers()) == 2
    assert torch.isfinite(backbone.generate(PROMPTS, [1, 2, 3], 2, 3.0)).all()


def test_the_miniature_of_a_flow_is_read_as_it_was_trained() -> None:
    """With `max_length` 12: its own training writes as many zeros behind the CLIPs."""
    tokenizer = make_tokenizer()
    miniature = MINIATURES["flow"](tokenizer).eval()
    backbone = SD3.of(miniature.pipeline(make_autoencoder()), Model("x", max_length=12))
    prompts = ["a red circle", "two blue squares"]
    tokens = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        hidden, pooled = miniature._read(tokens)
    condition = backbone.encode(prompts)
    torch.testing.assert_close(condition["encoder_hidden_states"], hidden)
    torch.testing.assert_close(condition["pooled_projections"], pooled)


def test_the_guidance_input_of_flux() -> None:
    """3.5 in dev if not told otherwise; schnell has none, and cannot be guided."""
    dev = Flux.tiny()
    assert dev.encode(PROMPTS)["guidance"].tolist() == [3.5] * 3
    other = Flux.of(dev.pipeline, Model("x", distilled_guidance=1.0, max_length=24, resolution=16))
    assert other.encode(PROMPTS)["guidance"].tolist() == [1.0] * 3
    schnell = Flux.tiny(guidance_embeds=False)
    condition = schnell.encode(PROMPTS)
    assert "guidance" not in condition
    x, t = torch.randn(3, *schnell.latent_shape), torch.tensor([10.0, 500.0, 990.0])
    assert schnell.predict(schnell.denoiser, x, t, condition).shape == x.shape
    assert schnell.generate(PROMPTS, [1, 2, 3], 1, 1.0).shape == x.shape
    with pytest.raises(InputError, match="schnell has none: give 1"):
        schnell.generate(PROMPTS, [1, 2, 3], 1, 3.5)


@pytest.mark.parametrize(
    ("model", "override", "message"),
    [
        (
            Flux.tiny(guidance_embeds=False),
            "evaluate.scales=[1,3]",
            r"evaluate.scales 3: .* set evaluate.scales=\[1\]",
        ),
        (
            Flux2.tiny(is_distilled=True),
            "sample.guidance=2",
            r"sample.guidance 2: .* is distilled .* set sample.guidance=1",
        ),
        (Flux2.tiny(is_distilled=True), "validation.guidance=4", r"validation.guidance 4: .* has no guidance"),
    ],
    ids=["schnell", "klein", "validated"],
)
def test_guidance_of_a_distilled_model_is_refused_before_any_work(
    model: Backbone, override: str, message: str, tmp_path: Path
) -> None:
    """By its files, before it is loaded."""
    model.save(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("two red cubes\n")
    given = {"name": "run", "out": str(tmp_path), "model": {"path": str(tmp_path / "model"), "resolution": 16}}
    given |= {"prompts": str(tmp_path / "prompts.txt"), "evaluate": {"metrics": ["saturation"], "scales": [1]}}
    for split, text in {"prompts": "a blue cone", "validation": "a ring"}.items():
        (tmp_path / f"{split}-held-out.txt").write_text(text)
        given["evaluate"][split] = str(tmp_path / f"{split}-held-out.txt")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    Workflow.start(load(tmp_path / "recipe.yaml"))
    with pytest.raises(InputError, match=message):
        Workflow.start(load(tmp_path / "recipe.yaml", [override, "name=other"]))


def test_packing_is_undone() -> None:
    backbone = Flux.tiny()
    latents = torch.randn(2, *backbone.latent_shape)
    packed = backbone.pack(latents)
    assert packed.shape == (2, 16, 16)
    assert torch.equal(packed[0, 0], latents[0, :, :2, :2].flatten())
    assert torch.equal(backbone.unpack(packed), latents)


def test_gemma_is_given_the_instruction() -> None:
    """It is no part of what the transformer sees, but every token of the prompt has read it."""
    backbone = Sana.tiny()
    mask = backbone.encode(PROMPTS)["encoder_attention_mask"]
    assert mask.sum(1).tolist() != [24] * 3
    plain, *_ = backbone.pipeline.encode_prompt(
        PROMPTS, False, device=torch.device("cpu"), max_sequence_length=24, complex_human_instruction=None
    )
    assert not torch.allclose(backbone.encode(PROMPTS)["encoder_hidden_states"], plain)
    assert len(INSTRUCTION) > 1


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_precision_of_sanas_parts(dtype: str, tmp_path: Path) -> None:
    Sana.tiny().save(tmp_path)
    pipeline = Sana.load(Model(str(tmp_path), dtype=dtype, max_length=24)).pipeline
    assert pipeline.transformer.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert pipeline.text_encoder.dtype == torch.bfloat16
    assert pipeline.vae.dtype == torch.float32


@pytest.mark.parametrize("cls", [SDXL, SD3])
def test_what_overflows_in_fp16_is_kept_in_fp32(cls: type[Backbone], tmp_path: Path) -> None:
    """Autoencoders that say so, and the last layer of T5's blocks."""
    cls.tiny().save(tmp_path)
    backbone = cls.load(Model(str(tmp_path), dtype="fp16"))
    assert backbone.denoiser.dtype == torch.float16
    assert backbone.pipeline.vae.dtype == torch.float32
    if cls is SD3:
        layer = backbone.pipeline.text_encoder_3.encoder.block[0].layer[1].DenseReluDense
        assert (layer.wi.weight.dtype, layer.wo.weight.dtype) == (torch.float16, torch.float32)


def test_who_cuts_a_prompt() -> None:
    """CLIP reads 16 tokens, two special ones and 14 letters; T5 reads 40."""
    backbone = SD3.of(SD3.tiny().pipeline, Model("x", max_length=40))
    found = backbone.too_long(["abcdefg hijklmn", "abcdefg hijklmno pq"])
    assert {(cut.prompt, cut.words) for cut in found} == {("abcdefg hijklmno pq", "hijklmno pq")}
    assert [cut.encoder.split()[0] for cut in found] == ["text_encoder", "text_encoder_2"]


SCRIPT = """
import sys
from pathlib import Path
import numpy, torch
from diffusers import DiffusionPipeline
folder = Path(sys.argv[1])
for each in sorted(folder.iterdir()):
    pipeline = DiffusionPipeline.from_pretrained(each)
    options = eval((each / "call.txt").read_text())
    options |= {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(5), "output_type": "np"}
    image = pipeline(prompt="a red cube", **options).images[0]
    numpy.save(each / "found.npy", image)
assert not any(name.split(".")[0] == "ddspo" for name in sys.modules)
"""


def test_saved_folders_need_no_import_of_this_library(tmp_path: Path) -> None:
    """Another process, which imports diffusers alone, makes the same images from them."""
    import numpy as np

    for cls in ALL:
        backbone = cls.tiny()
        backbone.save(tmp_path / cls.__name__)
        (tmp_path / cls.__name__ / "call.txt").write_text(repr(backbone.call))
        generator = torch.Generator().manual_seed(5)
        image = backbone.pipeline(
            prompt="a red cube", num_inference_steps=2, generator=generator, output_type="np", **backbone.call
        ).images[0]
        np.save(tmp_path / cls.__name__ / "expected.npy", image)
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, cwd=tmp_path)
    for cls in ALL:
        found, expected = (np.load(tmp_path / cls.__name__ / f"{name}.npy") for name in ("found", "expected"))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_pipeline_that_was_saved_without_its_t5_is_read_without_it(tmp_path: Path) -> None:
    """diffusers wants to be told again which parts are absent; zeros stand for what T5 would have said."""
    backbone = SD3.tiny()
    backbone.pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    backbone.save(tmp_path)
    found = SD3.load(Model(str(tmp_path), max_length=5))
    hidden = found.encode(["a b"])["encoder_hidden_states"]
    assert hidden.shape[1] == 16 + 5
    assert not hidden[:, 16:].any()
    assert hidden[:, :16].any()
