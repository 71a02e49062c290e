"""`ddspo align`: from a wish to a recipe that fits a device and a budget."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from ddspo import components, randomness, recipe
from ddspo.align import judges, planning
from ddspo.align.choices import Choices, half_width
from ddspo.align.judges import Panel, panel
from ddspo.align.machine import CARD, HOST, Machine
from ddspo.align.page import page
from ddspo.align.planning import Plan, fitted, recipe_of, spent
from ddspo.align.probe import gap_of
from ddspo.align.rungs import EVALUATIONS, SUPERVISION, Placing, placings
from ddspo.align.wish import MINIATURE, Wish, bytes_of, name_of, seconds_of, wished
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.maths.reward import mean_square
from ddspo.recipe import Recipe
from ddspo.weights import Hub

GIB = 2**30
GUARDS = Panel(["saturation"], None, ())
CARD_OF_24 = Machine("a card of 24 GiB", 24 * GIB, 64 * GIB, "bf16", shared=False)
WISH = Wish(model="somebody/model", budget=7200.0, name="mine")


def choices(**changes: Any) -> Choices:
    begun = Choices(WISH, (25, 5.0), True, "bf16", 1024, GUARDS, Placing(), 1, 1, SUPERVISION[-1], EVALUATIONS[-1])
    return replace(begun, **changes)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("45m", 2700), ("45 min", 2700), ("2h", 7200), ("1h30m", 5400), ("1.5H", 5400)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text, "--budget") == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "0m", "-2h", "2h!", "1e3s"])
def test_no_times_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--budget .*: give a time, such as 2h"):
        seconds_of(text, "--budget")


@pytest.mark.parametrize(("text", "size"), [("24GB", 24), ("24 GiB", 24), ("24g", 24), ("0.5GB", 0.5), ("1t", 1024)])
def test_sizes_are_read_as_cards_are_sold(text: str, size: float) -> None:
    assert bytes_of(text, "--memory") == size * GIB


@pytest.mark.parametrize("text", ["", "24", "GB", "24 giga", "0GB", "-1GB"])
def test_no_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--memory .*: give a size, such as 24GB"):
        bytes_of(text, "--memory")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("me/My model!", "My-model"),
        ("./models/sd15/", "sd15"),
        ("C/x.safetensors", "x"),
        ("..", "aligned"),
        ("a/.hidden", "hidden"),
    ],
)
def test_a_run_is_called_like_its_model(model: str, name: str) -> None:
    assert name_of(model) == name


def test_without_a_model_the_miniature_is_aligned_and_overrides_are_none() -> None:
    wish = wished("train.lr=1e-4", ["seed=2"], (), None, None, (None, None, None))
    assert (wish.model, wish.name, wish.overrides) == (MINIATURE, "miniature", ("train.lr=1e-4", "seed=2"))
    assert wish.budget < wished("a/b", (), (), None, None, (None, None, None)).budget


def test_a_unet_is_not_quantised_and_what_loses_least_comes_first() -> None:
    unet, transformer = placings(transformer=False, smaller=False), placings(transformer=True, smaller=True)
    assert unet == [Placing(), Placing(checkpointing=True), Placing(checkpointing=True, offload=True)]
    assert [each.quantize for each in transformer[:4]] == [None, None, "int8", "nf4"]
    assert not any(each.halved for each in transformer[:4])
    assert transformer[4] == Placing(checkpointing=True, halved=True)
    assert transformer[-1].offload


def costs(given: Recipe) -> SimpleNamespace:
    """12 GiB of weights, halved by int8 and quartered by nf4; 8 GiB of activations a pair, a quarter if recomputed."""
    weights = 12.0 / {None: 1, "int8": 2, "nf4": 4}[given.model.quantize]
    each = 8.0 / (4 if given.train.gradient_checkpointing else 1) / (4 if given.model.resolution else 1)
    train = weights + each * given.train.device_batch
    images = weights + given.evaluate.batch if given.evaluate else 0
    stages = [
        SimpleNamespace(name=name, device_bytes=int(size * GIB), host_bytes=GIB)
        for name, size in (("train", train), ("images", images))
    ]
    return SimpleNamespace(stages=stages)


@pytest.mark.parametrize(
    ("memory", "expected", "batch", "drawn"),
    [
        # 92 % of 24 is 22.08: 12 + 8 fits and 12 + 16 does not; 12 + 10 images would, of which 8 is a rung.
        (24, Placing(), 1, 8),
        # 92 % of 16 is 14.72: 12 + 8 does not fit, 12 + 2 does; 12 + 2 images.
        (16, Placing(checkpointing=True), 1, 2),
        # 11.04: 6 + 2 fits, 6 + 4 does too, 6 + 8 does not; 6 + 4 images.
        (12, Placing("int8", checkpointing=True), 2, 4),
        # 5.52: 3 + 2 fits; 3 + 2 images.
        (6, Placing("nf4", checkpointing=True), 1, 2),
        # 4.6: 3 + 2 does not fit, at half of the side 3 + 0.5 does, up to 2 pairs; 3 + 1 image.
        (5, Placing("nf4", checkpointing=True, halved=True), 2, 1),
    ],
)
def test_the_first_way_that_fits_is_taken(
    memory: int, expected: Placing, batch: int, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "cost", costs)
    machine = replace(CARD_OF_24, memory=memory * GIB)
    found = fitted(choices(), machine, placings(transformer=True, smaller=True))
    assert (found.placing, found.device_batch, found.drawn) == (expected, batch, drawn)


def test_a_model_that_fits_in_no_way_is_refused_with_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last way has 12 + 2 GiB, of 4 * 0.92 = 3.7."""
    monkeypatch.setattr(planning, "cost", costs)
    with pytest.raises(InputError, match=r"train needs 14\.0 GiB of accelerator memory, of 3\.7 that may"):
        fitted(choices(), replace(CARD_OF_24, memory=4 * GIB), placings(transformer=False, smaller=False))


def test_memory_of_a_cpu_is_one_for_device_and_host() -> None:
    shared = replace(CARD_OF_24, memory=8 * GIB, host=8 * GIB, shared=True)
    assert shared.fault(3 * GIB, 3 * GIB) is None  # 6 of 8 * 0.75
    assert "main memory" in (shared.fault(4 * GIB, 3 * GIB) or "")
    assert CARD_OF_24.fault(int(CARD * 24) * GIB, int(HOST * 64) * GIB) is None


def speeds(found: Any, speed: Any) -> dict[str, float]:
    """A second a pair that is made, a tenth a pair that is trained on, and 2 an image."""
    given = found.recipe
    drawn = 2 * int(given.evaluate.prompts.partition("count=")[2].partition("&")[0]) * given.evaluate.images
    return {"sample": given.sample.pairs, "train": given.train.steps * given.train.batch / 10, "images": 2.0 * drawn}


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "cost", lambda given: SimpleNamespace(recipe=given, stages=[]))
    monkeypatch.setattr(planning, "seconds", speeds)


@pytest.mark.usefixtures("budgets")
@pytest.mark.parametrize(
    ("budget", "pairs", "prompts"),
    [
        # 4 s a judged image (two models): 240 prompts * 4 = 3840 s, 120: 1920, 96 * 2: 768, 48: 384, 24: 192, 12: 96.
        # Supervision: 1024 + 192 = 1216, 512 + 96 = 608, 256 + 48 = 304.
        (20_000, 1024, 240),
        (5_000, 1024, 120),  # 3840 is above 2000, 1920 is not; 1216 fits in the rest
        (1_500, 512, 48),  # 768 is above 600, 384 is not; 1116 are left, below 1216
        (500, 256, 24),  # 384 is above 200, 192 is not; 308 are left
    ],
)
def test_the_budget_is_spent_on_looking_first_and_then_on_pairs(budget: float, pairs: int, prompts: int) -> None:
    found = spent(Plan(choices(wish=replace(WISH, budget=budget)), speed=None))  # type: ignore[arg-type]
    assert (found.choices.supervision.pairs, found.choices.evaluation.prompts) == (pairs, prompts)
    assert found.total <= budget


@pytest.mark.usefixtures("budgets")
def test_a_budget_that_is_not_enough_is_refused_with_one_that_is() -> None:
    """256 pairs, 30 updates and 12 prompts take 304 + 96 = 400 s: 440 s with a tenth more, so 8 minutes."""
    plan = Plan(choices(wish=replace(WISH, budget=390)), speed=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"256 pairs and 30 updates.*give --budget 8m$"):
        spent(plan)
    assert spent(Plan(choices(wish=replace(WISH, budget=480)), speed=None)).total <= 480  # type: ignore[arg-type]


def test_every_note_is_of_a_key_that_the_recipe_has() -> None:
    scored = Panel(["clip_score", "saturation"], "clip_score", ())
    for placing in placings(transformer=True, smaller=True):
        made = choices(placing=placing, panel=scored, gap=0.004)
        tree = made.tree()
        for key in made.notes():
            value: Any = tree
            for part in key.split("."):
                assert part in value, key
                value = value[part]


def test_beta_follows_the_gap() -> None:
    """5 / 0.0041 = 1219.5, in two digits."""
    assert choices(gap=0.0041).tree()["objective"]["logistic"]["beta"] == 1200.0


def test_an_interval_of_right_and_wrong() -> None:
    """1.96 sqrt(0.25 / 50 + 0.25 / 50) = 1.96 * 0.1."""
    assert half_width(50) == pytest.approx(0.196)


@pytest.mark.usefixtures("budgets")
def test_the_page_is_the_recipe_with_its_reasons(tmp_path: Path) -> None:
    wish = replace(WISH, overrides=("train.lr=3e-5", "model.dtype=fp32"))
    plan = spent(Plan(choices(wish=wish), speed=None))  # type: ignore[arg-type]
    text = page(plan, CARD_OF_24, "ddspo align x")
    (tmp_path / "plan.yaml").write_text(text)
    assert recipe.load(tmp_path / "plan.yaml") == plan.recipe
    assert "# lr: as asked for" in text
    assert plan.recipe.train.lr == 3e-5
    assert yaml.safe_load(text) == plan.tree


@pytest.mark.usefixtures("budgets")
def test_nothing_is_said_of_what_was_taken_out() -> None:
    plan = spent(Plan(choices(wish=replace(WISH, overrides=("draw={}",))), speed=None))  # type: ignore[arg-type]
    text = page(plan, CARD_OF_24, "ddspo align x")
    assert "# draw: as asked for" in text
    assert "# latents:" not in text


def test_a_judge_whose_weights_are_nowhere_does_not_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"clip_score": {"place": str(tmp_path / "none")}}
    found = panel([missing], ["saturation"])
    assert (found.metrics, found.scorer) == (["saturation"], None)
    assert "clip_score does not judge" in found.missing[0]
    monkeypatch.setattr(Hub, "check", lambda self: None)
    assert panel(["pick_score", "clip_score"], []).scorer == "clip_score"
    monkeypatch.setattr(Hub, "is_here", property(lambda self: False))
    assert judges.downloads(["pick_score", "pick_score", "saturation"]) == 3.94e9


def test_the_gap_is_the_mean_square_of_what_the_missing_words_move() -> None:
    """One prompt: its degraded prompt's sample, noised at the four middle times of quarters."""
    backbone = SD.tiny()
    tree = {"name": "x", "model": {"path": "nobody/nothing"}, "prompts": "p.txt"}
    given = recipe.build(tree, ["sample.steps=2", "sample.guidance=2.0"], "test")
    rows = [{"prompt": "a cat", "degraded": "cat", "seed": 3}]
    x0, found = backbone.generate(["cat"], [3], 2, 2.0), []
    condition = backbone.encode(["a cat", "cat"])
    for number, u in enumerate((0.125, 0.375, 0.625, 0.875)):
        t = backbone.path.times(torch.tensor([u]))
        noise = randomness.normal([randomness.stable_seed(3, number)], x0.shape[1:])
        x_t = backbone.path.noise(x0, noise, t)
        with torch.no_grad():
            one, other = (
                backbone.predict(
                    backbone.denoiser, x_t, t, {name: row[place : place + 1] for name, row in condition.items()}
                )
                for place in (0, 1)
            )
        found.append(mean_square(one - other))
    assert gap_of(backbone, rows, given) == pytest.approx(float(torch.cat(found).mean()), rel=1e-4)
    same = [rows[0] | {"degraded": "a cat"}]
    assert gap_of(backbone, same, given) < 1e-12


def test_choices_of_every_family_make_a_recipe() -> None:
    for quantize in (None, "int8"):
        made = recipe_of(choices(placing=Placing(quantize, checkpointing=True)))
        assert components.name_of(made.policy_pair) == "training_free"
