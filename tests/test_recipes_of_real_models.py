"""Recipes of real models: each runs through its stages on a tiny pipeline of its class, and says where it is from."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import clip_networks
import pytest
import yaml
from peft import PeftModel
from preference_files import pick_a_pic

from ddspo import components
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.base import Backbone
from ddspo.detectors.mask2former import Mask2Former
from ddspo.metrics.geneval import GenEval
from ddspo.prompts.addresses import read_address
from ddspo.recipe import Recipe, load
from ddspo.rows import read_rows
from ddspo.workflow import Workflow

FOLDER = Path(__file__).parents[1] / "recipes/paper"
RECIPES = sorted(FOLDER.glob("*.yaml"))
BACKBONES = {"sd14": "sd", "sd15": "sd", "sd35": "sd3"}
"""Of recipes whose first word is no backbone's name."""
SMALL = [
    *("model.variant=null", "model.dtype=bf16", "sample.pairs=4", "sample.steps=2", "sample.batch=2"),
    *("train.steps=2", "train.batch=2", "train.device_batch=2", "train.checkpoint_every=1"),
    *("validation.final=2", "validation.steps=2"),
    *("evaluate.steps=2", "evaluate.images=2", "evaluate.batch=2", "evaluate.choose=null"),
]
CHEAP = ("clip_score", "saturation")
"""Judges in place of the recipes' own, whose weights are not here."""
PRETRAIN = ["pretrain.train.steps=1", "pretrain.train.batch=2", "pretrain.train.device_batch=2"]
SOURCED = ("degradation", "sample", "dataset", "objective", "adaptation", "pretrain", "draw", "train", "evaluate")
NOT_METHOD = (
    "model.path",
    "model.variant",
    "name",
    "policy_pair",
    "sample.batch",
    "sample.shard",
    "train.device_batch",
)
"""Keys that the title explains, or that change memory and not the result."""


def backbone_of(path: Path) -> str:
    first = path.stem.partition("-")[0]
    return BACKBONES.get(first, first)


@pytest.fixture(scope="session")
def tiny_folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def made(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            components.find(Backbone, name).tiny().save(folders[name])
        return folders[name]

    return made


def evaluation(path: Path, out: Path) -> list[str]:
    """Overrides for pictures of a few prompts, where the recipe's come from a network, and cheap metrics."""
    out.mkdir(exist_ok=True)
    clip = clip_networks.saved(clip_networks.network(), out / "clip")
    (out / "held_out.txt").write_text("a red cat\na blue bird\n")
    scorers = f"evaluate.metrics=[{{{CHEAP[0]}: {{place: {clip}}}}}, {CHEAP[1]}]"
    found = [scorers, f"evaluate.prompts={out}/held_out.txt"]
    if "  validation:" in path.read_text():
        (out / "validation.txt").write_text("a green dog\na cat\n")
        found += [f"evaluate.validation={out}/validation.txt", "evaluate.validation_images=1"]
    return found


def small(path: Path, model: Path, out: Path) -> Recipe:
    """The recipe with sizes for a test; what makes the method is left as it is."""
    overrides = [*SMALL, *evaluation(path, out), *(PRETRAIN if "pretrain:" in path.read_text() else ())]
    prompts = out / "prompts.txt"
    prompts.write_text("a red cube\ntwo cats on a mat\n")
    if "\ndataset:" in path.read_text():
        overrides.append(f"dataset.source={pick_a_pic(out / 'pickapic_v2', [{}, {}, {}])}")
    found = load(path, [f"model.path={model}", f"prompts={prompts}", f"out={out}", *overrides])
    how = found.adaptation
    return replace(found, adaptation=replace(how, rank=min(how.rank, 16))) if isinstance(how, LoRA) else found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_dry_run(path: Path, tiny_folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Every stage, two updates; what comes out loads into the pipeline's own class."""
    model = tiny_folder_of(backbone_of(path))
    flow = Workflow.start(small(path, model, tmp_path))
    flow.run()
    rows = read_rows(flow.folder.log)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert all(math.isfinite(row["loss"]) for row in rows)
    result, scales = flow.result(), recipe_of(path)["evaluate"]["scales"]
    assert [*result["metrics"]] == [*CHEAP]
    assert set(result["scales"].values()) <= set(scales)
    assert len(list(flow.folder.images.glob("*/0000?_?.png"))) == 2 * 2 * 2, "models, prompts, images"
    curve = result["metrics"]["clip_score"]["curve"]
    assert all([*map(float, each)] == scales for each in curve.values())
    assert bool(curve) == (len(scales) > 1)
    assert (flow.folder.report_html).exists()
    assert len(list(flow.folder.samples.glob("*/*.png"))) == 4
    assert ("pretrain" in flow.standing.manifest.stages()) == ("data-driven" in path.stem)
    assert loads(model, flow.folder.aligned, components.find(Backbone, backbone_of(path)))


@pytest.mark.parametrize("name", ["sd15-diffusion-dpo", "sdxl-diffusion-dpo"])
def test_the_twins_on_an_imported_dataset(name: str, tiny_folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """As their headers say: two more keys, and the pairs are those of Pick-a-Pic."""
    path = FOLDER / f"{name}.yaml"
    source = pick_a_pic(tmp_path / "pickapic_v2", [{}, {}])
    model = tiny_folder_of(backbone_of(path))
    given = [f"model.path={model}", f"out={tmp_path}", "prompts=null", *SMALL, *evaluation(path, tmp_path)]
    flow = Workflow.start(load(path, [*given, f"dataset.source={source}", "dataset.format=pick_a_pic"]))
    flow.run()
    assert list(flow.standing.manifest.stages()) == ["import", "train", "images", "judge", "report"]
    assert len(read_rows(flow.folder.log)) == 2


def loads(model: Path, aligned: Path, kind: Any) -> bool:
    """By plain diffusers: a whole pipeline, its LoRA, or peft's adapter where the pipeline's class reads no LoRA."""
    if (aligned / "model_index.json").exists():
        return bool(kind.pipeline_class.from_pretrained(aligned))
    pipeline = kind.pipeline_class.from_pretrained(model)
    if (aligned / "adapter_config.json").exists():
        return len(PeftModel.from_pretrained(pipeline.transformer, str(aligned)).active_adapters) == 1
    pipeline.load_lora_weights(aligned)
    return len(pipeline.get_active_adapters()) == 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_header_says_where_everything_is_from(path: Path) -> None:
    """A paper row or that there is none, what it needs, and a source for every key that makes the method."""
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert re.search(r"^# Paper: (alignment|aesthetics|no row)", header, re.MULTILINE)
    assert re.search(r"^# Not run here: ", header, re.MULTILINE)
    assert re.search(r"^# Needs: \S", header, re.MULTILINE)
    sources = set(re.findall(r"^#   ([a-z_.]+(?:, [a-z_.]+)*):", header, re.MULTILINE))
    named = {key for keys in sources for key in keys.split(", ")}
    recipe = components.plain(load(path))
    for key in named:
        assert value_of(recipe, key) is not KeyError, f"{key} is no key of the recipe"
    given = {key for key in leaves(recipe_of(path)) if key.startswith(SOURCED)}
    unnamed = {key for key in given - set(NOT_METHOD) if not any(starts(key, each) for each in named)}
    assert not unnamed, f"no source for {unnamed}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_evaluation(path: Path) -> None:
    """GenEval's prompts and detector, the paper's scorers, and the model's usual scale among those that are tried."""
    recipe = load(path)
    given = recipe.evaluate
    assert given
    assert given.prompts == "benchmark://geneval"
    assert {"geneval", "pick_score", "hps_v2"} <= {metric.name for metric in given.metrics}
    assert isinstance(given.main, GenEval)
    assert isinstance(given.main.detector, Mask2Former)
    usual = {"sd14": 7.5, "sd15": 7.5, "sdxl": 5.0}.get(path.stem.partition("-")[0], recipe.sample.guidance)
    assert usual in given.scales
    assert recipe.dataset or (given.steps, given.batch) == (recipe.sample.steps, recipe.sample.batch)
    assert (given.validation is None) == (len(given.scales) == 1)
    rows = [row for _, row in read_address(given.validation, "evaluate.validation")] if given.validation else []
    assert not any(given.main.missing(row) for row in rows), "the detector knows all that is asked for"


def recipe_of(path: Path) -> Any:
    """What its file says."""
    return yaml.safe_load(path.read_text())


def starts(key: str, named: str) -> bool:
    return f"{key}.".startswith(f"{named}.")


def leaves(tree: Any, path: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, below in tree.items() for leaf in leaves(below, f"{path}.{key}" if path else key)]


def value_of(tree: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return KeyError
        tree = tree[name]
    return tree


def test_the_rate_follows_the_authors_rule() -> None:
    """lr x beta = 0.0819 at 2048 pairs an update, within a thousandth of it."""
    for path in RECIPES:
        recipe: Any = load(path)
        assert recipe.train.batch == 2048
        assert recipe.train.lr * recipe.objective.beta == pytest.approx(0.0819, rel=2e-3), path.stem
