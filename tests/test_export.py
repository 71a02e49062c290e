"""A finished run in every format, its model card, and what goes wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from evaluations import evaluation
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ddspo import components
from ddspo.adaptations.base import Adaptation
from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.exports.base import LORA, Export
from ddspo.exports.comfyui import ComfyUI
from ddspo.exports.diffusers import Diffusers
from ddspo.exports.kohya import Kohya
from ddspo.exports.merged import Merged
from ddspo.files import write_json, write_text
from ddspo.manifest import Manifest
from ddspo.result import Result
from ddspo.run_folder import RunFolder
from ddspo.settings import ITEMS
from ddspo.stages.export import export
from ddspo.training.policies import Policies

HOSTILE = "</script> | x\n---\n# `{{ 7 * 7 }}` <img src=x onerror=alert(1)> ![a](http://x) **b** \\"
ADAPTATIONS = [LoRA(rank=4, alpha=8.0), Full()]


def make_run(folder: Path, base: Path, adaptation: Adaptation) -> torch.Tensor:
    """A run folder as training leaves it, every trained weight moved; returns what the policy predicts."""
    tree = {"name": "small", "model": {"path": str(base), "backbone": "sd"}, "prompts": "/home/somebody/prompts.txt"}
    tree |= {"adaptation": components.plain(adaptation), "train": {"steps": 3}}
    write_text(folder / "recipe.yaml", yaml.safe_dump(tree))
    settings = {"seed": 0, "model": {"path": str(base)}, ITEMS: "1f", "labels": "/home/somebody/labels.jsonl"}
    settings |= {"adaptation": components.plain(adaptation)}
    train = {"settings": settings, "versions": {"ddspo": "1.2.3"}}
    write_json(folder / "manifest.json", {"train": train, "report": {"settings": {"name": "x"}}})
    write_json(folder / "environment.json", {"versions": {"ddspo": "9"}, "machine": {}})
    backbone = SD.load(Model(str(base), "sd"))
    policies = Policies.of(backbone, adaptation, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policies.denoiser.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    adaptation.save(backbone, folder / "aligned")
    return predict(policies.denoiser)


@torch.no_grad()
def predict(denoiser: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, states = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 16, 16, generator=generator)
    return denoiser(x, torch.tensor([10, 500]), encoder_hidden_states=states).sample


def plain(base: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(base)


def write(run: Path, how: Export, out: Path) -> Path:
    result = Result.open(run)
    export(result.aligned, how, out, result.card(how, out.name))
    return out


def refused(run: Path, how: Export, out: Path) -> str:
    """The one line that an export fails with; it leaves nothing behind."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        write(run, how, out)
    assert sorted(out.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def lora_run(tmp_path: Path, tiny_folder: Path) -> Path:
    make_run(tmp_path / "run", tiny_folder, ADAPTATIONS[0])
    return tmp_path / "run"


@pytest.mark.parametrize("how", [Diffusers(), Kohya(), ComfyUI()], ids=["diffusers", "kohya", "comfyui"])
def test_loras_load_into_the_plain_pipeline(how: Export, tmp_path: Path, tiny_folder: Path) -> None:
    """Rank 4 and alpha 8: a reader that lost alpha would be off by a factor of two."""
    expected = make_run(tmp_path / "run", tiny_folder, ADAPTATIONS[0])
    out = write(tmp_path / "run", how, tmp_path / f"out{how.suffix}")
    pipeline = plain(tiny_folder)
    assert not torch.allclose(predict(pipeline.unet), expected, atol=1e-2)
    pipeline.load_lora_weights(out)
    torch.testing.assert_close(predict(pipeline.unet), expected, rtol=1e-4, atol=1e-5)
    (config,) = pipeline.unet.peft_config.values()
    assert (config.r, config.lora_alpha) == (4, 8)


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=["lora", "full"])
def test_merged_is_an_ordinary_pipeline(adaptation: Adaptation, tmp_path: Path, tiny_folder: Path) -> None:
    expected = make_run(tmp_path / "run", tiny_folder, adaptation)
    unet = plain(write(tmp_path / "run", Merged(), tmp_path / "out")).unet
    torch.testing.assert_close(predict(unet), expected, rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name, _ in unet.named_parameters())
    half = load_file(
        write(tmp_path / "run", Merged("fp16"), tmp_path / "half") / "unet/diffusion_pytorch_model.safetensors"
    )
    assert half.keys() == dict(unet.named_parameters()).keys()
    for name, parameter in unet.named_parameters():
        assert torch.equal(half[name], parameter.half()), name


def test_merged_rounds_once(lora_run: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """A base in bf16: the sum is made in float32, and its rounding is the only one after the base's own."""
    recipe = yaml.safe_load((lora_run / "recipe.yaml").read_text())
    recipe["model"]["dtype"] = "bf16"
    write_text(lora_run / "recipe.yaml", yaml.safe_dump(recipe))
    file = "unet/diffusion_pytorch_model.safetensors"
    base, lora = load_file(tiny_folder / file), load_file(lora_run / "aligned" / LORA)
    merged = load_file(write(lora_run, Merged(), tmp_path / "out") / file)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = (lora[f"unet.{name}.lora_{end}.weight"] for end in "AB")
    expected = (base[f"{name}.weight"].bfloat16().float() + 2 * (up @ down)).bfloat16()
    assert torch.equal(merged[f"{name}.weight"], expected)
    assert {rows.dtype for rows in merged.values()} == {torch.bfloat16}


def test_a_full_run_is_copied(tmp_path: Path, tiny_folder: Path) -> None:
    expected = make_run(tmp_path / "run", tiny_folder, Full())
    out = write(tmp_path / "run", Diffusers(), tmp_path / "out")
    assert torch.equal(predict(plain(out).unet), expected)


def test_a_full_run_has_no_lora(tmp_path: Path, tiny_folder: Path) -> None:
    make_run(tmp_path / "run", tiny_folder, Full())
    for how in (Kohya(), ComfyUI()):
        assert "is a whole pipeline, no LoRA" in refused(tmp_path / "run", how, tmp_path / "x.safetensors")


def test_comfyui_reads_kohyas_unets(lora_run: Path, tmp_path: Path) -> None:
    kohya, comfyui = (
        load_file(write(lora_run, how, tmp_path / f"{type(how).__name__}.safetensors")) for how in (Kohya(), ComfyUI())
    )
    assert kohya.keys() == comfyui.keys()
    assert all(torch.equal(kohya[key], comfyui[key]) for key in kohya)
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight" in kohya


def test_half_precision_keeps_alpha_and_the_header_says_rank(lora_run: Path, tmp_path: Path) -> None:
    out = write(lora_run, Kohya("fp16"), tmp_path / "x.safetensors")
    for key, rows in load_file(out).items():
        assert rows.dtype == (torch.float32 if key.endswith(".alpha") else torch.float16)
    with safe_open(out, "pt") as file:
        notes = file.metadata()
    assert (notes["ss_network_module"], notes["ss_network_dim"], notes["ss_network_alpha"]) == (
        "networks.lora",
        "4",
        "8.0",
    )


def change(run: Path, factor: float, **notes: str) -> None:
    path = run / "aligned" / LORA
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file({key: factor * rows for key, rows in load_file(path).items()}, path, metadata=header | notes)


def test_weights_that_a_precision_cannot_hold(lora_run: Path, tmp_path: Path) -> None:
    change(lora_run, 1e7)
    assert "too large for fp16: use --dtype" in refused(lora_run, Kohya("fp16"), tmp_path / "x.safetensors")


def test_broken_files(lora_run: Path, tmp_path: Path) -> None:
    change(lora_run, float("nan"))
    assert "not finite" in refused(lora_run, Diffusers(), tmp_path / "out")
    change(lora_run, 1.0, lora_adapter_metadata="{}")
    assert "no whole LoRA file with its alpha" in refused(lora_run, Diffusers(), tmp_path / "out")
    (lora_run / "aligned" / LORA).write_bytes(b"nothing")
    assert "no whole LoRA file" in refused(lora_run, Kohya(), tmp_path / "x.safetensors")
    (lora_run / "aligned" / LORA).unlink()
    with pytest.raises(InputError, match="run `ddspo train` first"):
        Result.open(lora_run)


def test_places_that_are_taken_or_misnamed(lora_run: Path, tmp_path: Path) -> None:
    assert "is there already" in refused(lora_run, Diffusers(), lora_run)
    assert "is one .safetensors file" in refused(lora_run, Kohya(), tmp_path / "x")
    assert "is a folder" in refused(lora_run, Diffusers(), tmp_path / "x.safetensors")


def test_links_do_not_leave_the_folder(lora_run: Path, tmp_path: Path) -> None:
    write_text(tmp_path / "secret", "x")
    (lora_run / "aligned" / "more").symlink_to(tmp_path / "secret")
    assert "is a link" in refused(lora_run, Diffusers(), tmp_path / "out")


@pytest.mark.parametrize("name", ["run", "run/aligned"])
def test_a_run_is_opened_by_either_folder(lora_run: Path, name: str) -> None:
    assert Result.open(lora_run.parent / name).recipe.name == "small"


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run there \(no recipe\.yaml\)"):
        Result.open(tmp_path)


def report_of(text: str) -> dict[str, Any]:
    """The report of three models, with somebody's text, if any, for a tag, a model and other words."""
    found = json.dumps(evaluation() | {"contamination": {"prompts": 2, "of": 3, "examples": [text]}})
    for word in ("colors", "other", "ImageReward", "some/weights", "deviation") if text else ():
        found = found.replace(word, json.dumps(text)[1:-1])
    return {"name": "small", **json.loads(found)}


def test_exports_do_not_outlive_their_training(lora_run: Path) -> None:
    write(lora_run, Kohya(), lora_run / "exports" / "x.safetensors")
    Manifest(RunFolder(lora_run)).forget(("train",))
    assert not (lora_run / "exports").exists()
    assert not (lora_run / "aligned").exists()


def test_a_card_does_not_outlive_its_figures(lora_run: Path) -> None:
    """A report that is thrown away takes the card along, and nothing else of aligned/."""
    Result.open(lora_run).write_card()
    Manifest(RunFolder(lora_run)).forget(("judge", "report"))
    assert [path.name for path in (lora_run / "aligned").iterdir()] == [LORA]


def cells(*texts: str) -> str:
    """A row of a rendered table."""
    return "<tr>\n" + "".join(f"<td>{text}</td>\n" for text in texts) + "</tr>"


def rendered(card: str) -> str:
    body = card.split("\n---\n", 1)[1]
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(body)


def test_the_card_says_what_is_known(lora_run: Path) -> None:
    """Nothing of an evaluation before there is one; afterwards its numbers; of the machine nothing."""
    result = Result.open(lora_run)
    result.write_card()
    card = ModelCard.load(lora_run / "aligned/README.md")
    assert card.data.to_dict() == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "ddspo", "preference-alignment", "lora"],
    }
    assert "Not evaluated." in card.text
    assert "None was named beside it" in card.text
    lora = "    adaptation:\n      lora:\n        rank: 4\n        alpha: 8.0\n        targets: null\n"
    assert f"## Recipe\n\n    seed: 0\n    labels: labels.jsonl\n{lora}\n" in card.text
    assert "ddspo 1\\.2\\.3" in card.text
    assert "/home" not in card.text
    assert str(lora_run.parent) not in card.text
    write_json(lora_run / "report.json", report_of(""))
    text = result.card(Merged(), "x")
    assert "Not evaluated." not in text
    shown = rendered(text)
    assert cells("GenEval", "base", "0.375", "0.125", "", "") in shown
    assert cells("GenEval", "aligned", "0.625", "0.125", "+0.250, +0.000 to +0.500", "75 %, 50 to 88 %") in shown
    assert cells("Saturation", "other", "0.250", "–", "-0.250, -0.375 to -0.125", "75 %, 50 to 88 %") in shown
    assert cells("FID", "aligned", "10.00", "+25.0 %", "") in shown
    assert cells("Diversity", "base", "0.000", "", "deviation 0.5") in shown
    assert cells("colors", "0.750", "0.750", "1.000") in shown
    assert "Guidance scales, chosen by geneval on other prompts: base 3, aligned 2." in shown
    assert "<strong>FID</strong>: What FID is. Less is better." in shown
    assert "Weights: a reward (CC BY-NC 4.0: no commercial use). No commercial use." in shown
    assert "2 of 3 evaluation prompts are also among the prompts that were trained on." in shown
    assert "lora" not in ModelCard(text).data.tags


def test_hostile_text_is_only_text(lora_run: Path, tmp_path: Path) -> None:
    write_json(lora_run / "report.json", report_of(HOSTILE))
    recipe = yaml.safe_load((lora_run / "recipe.yaml").read_text())
    recipe["model"] |= {"path": str(tmp_path / "<b>*base*"), "backbone": "sd"}
    write_text(lora_run / "recipe.yaml", yaml.safe_dump(recipe))
    page = rendered(Result.open(lora_run).card(Kohya(), "x.safetensors"))
    assert not any(mark in page for mark in ("<img", "<script", "</script", "<b>", "<strong>b", "49"))
    assert "&lt;img src=x onerror=alert(1)&gt; ![a](http://x) **b** \\</td>" in page


def test_the_licence_of_the_base(tmp_path: Path, tiny_folder: Path) -> None:
    """It is taken over from the base's own model card; a card that cannot be read tells nothing."""
    base = tmp_path / "base"
    SD.load(Model(str(tiny_folder), "sd")).save(base)
    make_run(tmp_path / "run", base, ADAPTATIONS[0])
    result = Result.open(tmp_path / "run")
    terms = {"license": "other", "license_name": HOSTILE, "license_link": "LICENSE.md"}
    write_text(base / "README.md", f"---\n{yaml.safe_dump(terms)}---\nx\n")
    card = ModelCard(result.card(Diffusers(), "x"))
    found = card.data.to_dict()
    assert {key: found[key] for key in terms} == terms
    assert "names this licence: other, &lt;/script&gt; | x --- # `{{ 7 * 7 }}` &lt;img" in rendered(str(card))
    write_text(base / "README.md", "---\nlicense: [\n---\n")
    assert "None was named" in result.card(Diffusers(), "x")


@pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=["lora", "full"])
@pytest.mark.parametrize("how", [Diffusers(), Merged()], ids=["diffusers", "merged"])
def test_the_code_of_the_card_runs(
    how: Export, adaptation: Adaptation, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder in which base and export lie under their names."""
    expected = make_run(tmp_path / "run", tiny_folder, adaptation)
    (tmp_path / tiny_folder.name).symlink_to(tiny_folder)
    card = (write(tmp_path / "run", how, tmp_path / "out") / "README.md").read_text()
    use = card.split("## Use")[1].split("## Evaluation")[0]
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec("".join(f"{line[4:]}\n" for line in use.splitlines()), found)
    assert found["image"].size == (16, 16)
    torch.testing.assert_close(predict(found["pipeline"].unet), expected, rtol=1e-4, atol=1e-5)


def test_the_code_of_the_card_for_hub_ids_and_packages(tmp_path: Path, tiny_folder: Path) -> None:
    make_run(tmp_path / "run", tiny_folder, ADAPTATIONS[0])
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    wanted = {
        "some/base": "from_pretrained('some/base', revision='v1', variant='fp16')",
        "package://ddspo.scenes/noise": "from_pretrained(files('ddspo.scenes') / 'noise')",
        str(tiny_folder): "from_pretrained('some/base', revision='v1', variant='fp16')",
    }
    for path, call in wanted.items():
        named = {"hub_id": "some/base"} if path == str(tiny_folder) else {}
        recipe["model"] |= {"path": path, "revision": "v1", "variant": "fp16", "backbone": "sd", **named}
        write_text(tmp_path / "run/recipe.yaml", yaml.safe_dump(recipe))
        card = ModelCard(Result.open(tmp_path / "run").card(Diffusers(), "me/mine"))
        assert (
            f"    pipeline = StableDiffusionPipeline.{call}\n    pipeline.load_lora_weights('me/mine')\n" in card.text
        )
        data = card.data.to_dict()
        assert (data.get("base_model"), data.get("base_model_relation")) == (
            (None, None) if path.startswith("package") else ("some/base", "adapter")
        )
