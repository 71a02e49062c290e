"""Recipes: what they resolve to, overrides, and mistakes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from ddspo.adaptations.full import Full
from ddspo.errors import InputError
from ddspo.objectives.logistic import Logistic
from ddspo.policy_pairs.forward_noise import ForwardNoise
from ddspo.recipe import dump, load
from ddspo.schedules.constant import Constant
from ddspo.schedules.sigmoid import Sigmoid
from ddspo.timesteps.logit_normal import LogitNormal
from ddspo.timesteps.uniform import Uniform
from ddspo.training.drawing import Drawing

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))
SCENES = Path(__file__).parents[1] / "recipes/scenes.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_show_prints_is_the_same_recipe(path: Path, tmp_path: Path) -> None:
    recipe = load(path)
    shown = tmp_path / "shown.yaml"
    shown.write_text(dump(recipe))
    assert load(shown) == recipe
    assert all("#" in line for line in dump(recipe).splitlines() if line.endswith(tuple("0123456789")))


def test_overrides() -> None:
    recipe = load(
        SCENES, ["objective.logistic.beta=5", "policy_pair=forward_noise", "adaptation=full", "train.lr=1e-8"]
    )
    assert recipe.objective == Logistic(beta=5)
    assert recipe.policy_pair == ForwardNoise()
    assert recipe.adaptation == Full()
    assert recipe.train.lr == 1e-8
    assert recipe.train.batch == load(SCENES).train.batch


def test_drawing_options() -> None:
    """Components by name or with options; what is not said stays as it was."""
    draw = load(
        SCENES, ["draw.timesteps.logit_normal.mean=-1", "draw.other_prompts=sigmoid", "draw.error_space=x0"]
    ).draw
    assert draw.timesteps == LogitNormal(mean=-1)
    assert draw.other_prompts == Sigmoid()
    assert replace(draw, timesteps=Uniform(), other_prompts=Constant(0), error_space="native") == Drawing()


def test_a_component_given_by_name_takes_an_option() -> None:
    assert load(SCENES, ["degradation.remove_words.variants=2"]).degradation.variants == 2


def test_an_optional_group_may_be_left_out(tmp_path: Path) -> None:
    recipe = load(SCENES, ["evaluate=null"])
    assert recipe.evaluate is None
    shown = tmp_path / "shown.yaml"
    shown.write_text(dump(recipe))
    assert "evaluate: null  # how base and aligned are compared" in shown.read_text()
    assert load(shown) == recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.lrr=1"], "train.lrr: no such key: did you mean lr?"),
        (["train.lr=fast"], "train.lr: 'fast': input should be a valid number"),
        (["train.steps=1.5"], "train.steps: 1.5:"),
        (["name=no"], "name: False: input should be a valid string"),
        (["name=../x"], "name '../x'"),
        (["objective.ipo.beta=1"], "objective: give one name"),
        (["objective=ipa"], "objective: no 'ipa' in objectives"),
        (["draw.timesteps=logit_norml"], "draw.timesteps: no 'logit_norml' in timesteps: did you mean logit_normal?"),
        (["draw.noise=none"], "draw.noise: 'none': input should be 'shared', 'independent' or 'generating'"),
        (["draw.weight.constant.value=-1"], "draw.weight.constant.value: -1:"),
        (["train.lr"], "'train.lr' is no override"),
        (["train.steps.x=1"], "steps holds no further keys"),
        (["evaluate.metrics=[null]"], "evaluate.metrics: give one name"),
        (["evaluate.stepz=1"], "evaluate.stepz: no such key: did you mean steps?"),
        (["evaluate=3"], "evaluate: 3: give its options"),
        (["train.lr=.inf"], "train.lr: inf: input should be a finite number"),
        (["draw.timesteps.logit_normal.mean=.nan"], "draw.timesteps.logit_normal.mean: nan: input should be a finite"),
        (["train.guards.loss=.nan"], "train.guards.loss: nan: input should be greater than 1"),
        (["evaluate.scales=[1, .inf]"], "evaluate.scales.1: inf: input should be a finite number"),
        (["evaluate.scales=[3, 3.0000001]"], "evaluate.scales: several are 3, which is how files are named"),
        (["evaluate.scales=[]"], "evaluate.scales: []: tuple should have at least 1 item"),
        (["sample.scheduler_options={a: [.nan]}"], "nan: input should be a finite number"),
        (["sample.scheduler_options={a: 2024-01-01}"], "input was not a valid JSON value"),
        (["train.steps=3000000000"], "train.steps: 3000000000: input should be at most 2147483647"),
        ([f"train.steps=0x{'f' * 9999}"], "train.steps: <integer of 39996 bits>: input should be at most"),
        (["evaluate.steps=1001"], "evaluate.steps: 1001: input should be less than or equal to 1000"),
        (["model.path="], "model.path: None:"),
        (["model.path=''"], "model.path: '': empty: give a text"),
        (["prompts=' '"], "prompts.path: ' ': empty: give a text"),
        (['prompts.where=["a\\0"]'], "prompts.where: 'a\\x00': holds control characters"),
        (['out="\\ud800"'], "out: '\\ud800': holds control characters"),
        (["train.guards=null"], "train.guards: None: give its options as key: value, or leave the key out"),
        (["objective.logistic=0"], "objective.logistic: 0: give its options"),
        (["train=!!timestamp x"], "the value is no YAML"),
        (["prompts=null"], "prompts: missing: give prompts to make pairs from, or a dataset"),
    ],
)
def test_mistakes(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(SCENES, overrides)
    assert message in str(caught.value)


def test_a_guard_is_switched_off() -> None:
    assert load(SCENES, ["train.guards.displacement=.inf"]).train.guards.displacement == math.inf


NESTED = [f"&a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 9)]
BOMB = f"seed: [&a0 [x], {', '.join(NESTED)}]"
"""A few hundred characters that spell out half a billion values."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no YAML"),
        ("- 1", "no recipe"),
        ("name: x", "model: missing"),
        (BOMB, "with all aliases written out it has over 10000 values"),
        ("a: &a [*a]", "nested over 20 deep"),
        ("[" * 5000, "no YAML"),
        ("#" * 2**16 + "\na: 1", "it is longer than 64 KiB"),
        ("seed: 2024-13-45", "no YAML"),
        ("seed: 0b_", "no YAML"),
        (f"seed: {'9' * 5000}", "no YAML"),
    ],
    ids=lambda text: text[:12],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load(path)
    with pytest.raises(InputError, match="no recipe"):
        load(tmp_path / "missing.yaml")
