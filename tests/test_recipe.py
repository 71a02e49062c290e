"""Recipes: what they resolve to, overrides, and mistakes."""

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

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
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
        (["objective=ipo"], "objective: no 'ipo' in objectives"),
        (["draw.timesteps=logit_norml"], "draw.timesteps: no 'logit_norml' in timesteps: did you mean logit_normal?"),
        (["draw.noise=none"], "draw.noise: 'none': input should be 'shared' or 'independent'"),
        (["draw.weight.constant.value=-1"], "draw.weight.constant.value: -1:"),
        (["train.lr"], "'train.lr' is no override"),
        (["train.steps.x=1"], "steps holds no further keys"),
        (["evaluate.metric=null"], "evaluate.metric: give one name"),
        (["evaluate.stepz=1"], "evaluate.stepz: no such key: did you mean steps?"),
        (["evaluate=3"], "evaluate: 3: give its options"),
        (["prompts=null"], "prompts: missing: give prompts to make pairs from, or a dataset"),
    ],
)
def test_mistakes(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(SCENES, overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "no YAML"), ("- 1", "no recipe"), ("name: x", "model: missing")]
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load(path)
    with pytest.raises(InputError, match="no recipe"):
        load(tmp_path / "missing.yaml")
