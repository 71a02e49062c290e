"""States that the sampler visited: what is kept is what the denoiser saw, and training goes on from there."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from holding import holding
from judges import Plain

from ddspo.adaptations.lora import LoRA
from ddspo.backbones._sampler import sampling_with
from ddspo.backbones._visited import visiting
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.chroma import Chroma
from ddspo.backbones.cogview4 import CogView4
from ddspo.backbones.flux import Flux
from ddspo.backbones.flux2 import Flux2
from ddspo.backbones.sd import SD
from ddspo.backbones.sd3 import SD3
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.maths.paths import DDPM
from ddspo.metrics.base import Score
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.data import PairData
from ddspo.pairs.shards import Damaged, Origin
from ddspo.pairs.store import PairStore
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.progress import Progress
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.sampling.options import Labels, Sampling
from ddspo.sampling.samples import calls_to_keep
from ddspo.stages.pairs import inspect
from ddspo.stages.sample import sample
from ddspo.stages.train import Method
from ddspo.training.batches import Batches
from ddspo.training.drawing import Drawing
from ddspo.training.optimisation import Optimisation
from ddspo.training.policies import Policies
from ddspo.training.steps import preference_step
from ddspo.training.texts import TextsOnDemand
from ddspo.workflow import Workflow

CPU = torch.device("cpu")
VISITED = Drawing(states="visited")
UNIT = (Flux, Flux2, Chroma)
"""Whose clock runs from 0 to 1."""


@pytest.mark.parametrize(
    ("family", "scheduler"),
    [
        (SD, None),
        (SD, "EulerDiscreteScheduler"),
        (SD, "LMSDiscreteScheduler"),
        (SD3, None),
        (Flux, None),
        (Flux2, None),
        (Chroma, None),
        (CogView4, None),
    ],
)
def test_what_is_kept_is_what_the_denoiser_saw(family: type[Backbone], scheduler: str | None) -> None:
    """Exactly, but for half precision; and asked again at its time, the denoiser says what it said.

    The latents of Euler and LMS are of exploding variance and scaled for the denoiser; FLUX and its kin pack theirs
    and set their clock to 0 ... 1; that of CogView4 is not its noise.
    """
    backbone, seen = family.tiny(), []
    prompts, calls = ["a b", "c"], torch.tensor([[0, 2], [1, 2]])

    def look(_: Any, args: Any, named: Any, out: Any) -> None:
        x = args[0] if args else named["hidden_states"]
        t = named["timestep"] if "timestep" in named else args[1]
        seen.append((backbone.unpack(x), t.expand(2) * (1000 if family in UNIT else 1), backbone.unpack(out[0])))

    with sampling_with(backbone, scheduler, {}), torch.no_grad():
        hook = backbone.denoiser.register_forward_hook(look, with_kwargs=True)
        with visiting(backbone, calls) as visited:
            backbone.generate(prompts, [3, 4], 3, 1.0)
        hook.remove()
        assert "step" not in vars(backbone.pipeline.scheduler)
        condition = backbone.encode(prompts)
        if family is Flux:
            condition = {**condition, "guidance": torch.ones(2)}
        for place in range(2):
            x, t = visited.states[:, place], visited.times[:, place]
            again = backbone.predict(backbone.denoiser, x.float(), t, condition)
            for row, call in enumerate(calls[:, place].tolist()):
                latents, time, out = seen[call]
                assert torch.equal(x[row], latents[row].half())
                torch.testing.assert_close(t[row], time[row].float(), rtol=1e-5, atol=0)
                torch.testing.assert_close(again[row], out[row], rtol=1e-2, atol=1e-2)


def test_a_call_that_never_comes_is_an_error() -> None:
    backbone = SD.tiny()
    with (
        pytest.raises(RuntimeError, match="DDIMScheduler: 2 calls, and 3 were expected"),
        visiting(backbone, torch.tensor([[2]])),
    ):
        backbone.generate(["a"], [1], 2, 1.0)
    assert "step" not in vars(backbone.pipeline.scheduler)


def test_calls_are_spread_and_each_as_likely() -> None:
    """Of T = 5 calls K = 3 different ones, in order; of 3000 draws each has a share of 3/5, +- 4 x 0.0089."""
    backbone = SD.tiny()
    rows = [{"visits": number} for number in range(3000)]
    calls = calls_to_keep(backbone, rows, Sampling(steps=5, states=3))
    assert (calls.diff(dim=1) > 0).all()
    assert calls.min() == 0
    assert calls.max() == 4
    shares = torch.bincount(calls.flatten()) / 3000
    assert (shares - 0.6).abs().max() < 0.036
    assert calls_to_keep(backbone, rows[:9], Sampling(steps=5, states=5)).tolist() == [[0, 1, 2, 3, 4]] * 9
    assert calls_to_keep(backbone, rows[:2], Sampling(steps=5)).shape == (2, 0)


def made(folder: Path, **options: Any) -> RunFolder:
    """Six pairs of three prompts, three states of five each."""
    run = RunFolder(folder)
    if not run.prompts.exists():
        texts = [("a b", "a"), ("c d", "c"), ("e f", "f")]
        rows = [{"id": p[0], "prompt": p, "degraded": [{"text": q, "kind": "some"}]} for p, q in texts]
        write_rows(run.prompts, rows)
    settings = Sampling(**{"pairs": 6, "steps": 5, "guidance": 2, "batch": 2, "states": 3} | options)
    sample(run, SD.tiny(), Model("tiny"), settings, 5, Accelerator(), Progress(speaks=False))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return made(tmp_path_factory.mktemp("visited") / "run")


@pytest.fixture(scope="module")
def data(run: RunFolder) -> PairData:
    return PairStore.open(run.pairs, states=True).take(range(6))


def test_a_store_gives_back_what_was_visited(run: RunFolder, data: PairData) -> None:
    """Both sides at the same times of the sampler; where the first call is kept, both see the same initial noise."""
    store, backbone = PairStore.open(run.pairs, states=True), SD.tiny()
    store.verify(backbone.latent_shape)
    assert data.states is not None
    data.verify(backbone.latent_shape)
    backbone.evaluations(5, 1.0)
    grid = backbone.pipeline.scheduler.timesteps.float()
    assert torch.isin(data.states.times, grid).all()
    assert data.states.times.dtype == torch.float32
    assert (data.states.times.diff(dim=1) < 0).all()
    first = data.states.times[:, 0] == grid[0]
    assert 0 < first.sum() < 6
    noise = backbone.initial_noise([store.row(row)["seed"] for row in range(6)]).half()
    for side in data.states.latents:
        assert torch.equal(side[first, 0], noise[first])
    assert not torch.equal(*(side[:, 2] for side in data.states.latents))


def test_states_are_read_where_they_are_asked_for(run: RunFolder) -> None:
    """They do not count against the window otherwise, and the latents are the same."""
    store, plain = PairStore.open(run.pairs, states=True), PairStore.open(run.pairs)
    assert (store.has_states, plain.has_states) == (True, False)
    assert plain.take([4]).states is None
    assert torch.equal(plain.take([4]).latents.lose, store.take([4]).latents.lose)
    assert all(shard.states_bytes > 3 * 2 * 512 * shard.entry.rows for shard in store.shards)
    assert all("times" not in table.column_names for table in plain._held.values())
    assert plain.row(4) == store.row(4)
    lines = list(inspect(run.path).lines())
    assert any(line.startswith("states kept of each latent: 3; their times, mean and range: ") for line in lines)


def test_neither_batches_nor_an_interruption_change_states(run: RunFolder, data: PairData, tmp_path: Path) -> None:
    other = PairStore.open(made(tmp_path / "other", batch=4).pairs, states=True).take(range(6))
    assert data.states is not None
    assert other.states is not None
    assert torch.equal(data.states.times, other.states.times)
    for one, two in zip(data.states.latents, other.states.latents, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-2)
    before = {path.name: path.read_bytes() for path in run.pairs.iterdir()}
    (run.pairs / "000001.parquet").unlink()
    made(run.path)
    assert {path.name: path.read_bytes() for path in run.pairs.iterdir()} == before


def test_pairs_do_not_depend_on_whether_states_are_kept(data: PairData, tmp_path: Path) -> None:
    plain = PairStore.open(made(tmp_path, states=0).pairs).take(range(6))
    for one, two in zip(data.latents, plain.latents, strict=True):
        assert torch.equal(one, two)


class Brightness(Plain):
    """The mean of an image."""

    def judge(self, images: Any, rows: Any) -> list[Score]:
        return [Score(float(np.mean(image))) for image in images]


def test_judged_pairs_keep_states_too(tmp_path: Path) -> None:
    """Of two steps both are kept: the first states are the initial noise of the two samples that were chosen."""
    labels = Labels(Brightness(), candidates=3)
    run = made(tmp_path, labels=labels, steps=2, states=2, pairs=3)
    store, backbone = PairStore.open(run.pairs, states=True), SD.tiny()
    states = store.take(range(len(store))).states
    assert states is not None
    for side in ("win", "lose"):
        noise = backbone.initial_noise([store.row(row)[f"{side}_seed"] for row in range(len(store))])
        assert torch.equal(getattr(states.latents, side)[:, 0], noise.half())


def batches(data: PairData, drawing: Drawing = VISITED) -> Batches:
    backbone = SD.tiny()
    return Batches(data, TextsOnDemand(backbone), 6, 7, backbone.path, drawing)


ROWS = [(row, visit) for visit in range(3) for row in range(6)]


@pytest.mark.parametrize("latents", ["both", "winner"])
def test_the_nearest_state_is_taken_with_its_own_time(data: PairData, latents: Any) -> None:
    """The implied noise leads from x_0 to it."""
    view = batches(data, replace(VISITED, latents=latents)).view(ROWS, CPU)
    drawn = batches(data, Drawing()).view(ROWS, CPU).t
    states = data.states
    assert states is not None
    assert view.one_latent == (latents == "winner")
    for place, (row, _) in enumerate(ROWS):
        nearest = int((states.times[row] - drawn[place]).abs().argmin())
        assert view.t[place] == states.times[row, nearest]
        for side in ("win", "lose"):
            of = "win" if latents == "winner" else side
            assert torch.equal(getattr(view.x_t, side)[place], getattr(states.latents, of)[row, nearest].float())
    for x_t, x0, noise in zip(view.x_t, view.x0, view.noise, strict=True):
        torch.testing.assert_close(view.path.noise(x0, noise, view.t), x_t, rtol=1e-4, atol=1e-4)
    assert len(set(view.t.tolist())) > 3


def test_training_on_visited_states_starts_at_log_2_and_has_a_gradient(data: PairData) -> None:
    policies = Policies.of(SD.tiny(), LoRA(), seed=0)
    loss = preference_step(policies, TrainingFree(), Logistic(), batches(data).view(ROWS[:6], CPU), VISITED)
    assert loss.value.item() == pytest.approx(math.log(2), abs=1e-6)
    loss.value.backward()
    assert any(parameter.grad.abs().max() > 0 for parameter in policies.groups()["grad_norm"])
    assert loss.log["gap"] > 0


def test_a_time_between_two_steps_has_the_coefficients_of_the_nearer() -> None:
    path = DDPM(torch.tensor([0.81, 0.49, 0.25, 0.04], dtype=torch.float64))
    alpha, _ = path.coefficients(torch.tensor([0.4, 0.6, 2.9]))
    torch.testing.assert_close(alpha, torch.tensor([0.9, 0.7, 0.2], dtype=torch.float64))


def test_what_cannot_be_kept_or_drawn(tmp_path: Path, tiny_folder: Path, data: PairData) -> None:
    with pytest.raises(InputError, match=r"sample.states 6: the sampler visits 5: keep as many at most"):
        made(tmp_path / "a", states=6)
    assert not list((tmp_path / "a").rglob("*.parquet"))
    model = Model(str(tiny_folder))
    Sampling(5, "PNDMScheduler", {"skip_prk_steps": True}, 5, states=6).check(SD.check(model))
    with pytest.raises(InputError, match=r"sample.states 6: the sampler visits 5"):
        Sampling(steps=5, states=6).check(SD.check(model))
    with pytest.raises(InputError, match=r"no states were kept: sample again with sample.states"):
        PairStore.open(made(tmp_path / "b", states=0, pairs=2).pairs, states=True)
    with pytest.raises(InputError, match="the pairs hold no states"):
        batches(replace(data, states=None)).view(ROWS[:2], CPU)
    method = Method(TrainingFree(), Logistic(), LoRA(), drawing=VISITED)
    method.check(Optimisation(), holding(degraded=True, states=True))
    with pytest.raises(InputError, match=r"no states are kept of the pairs: set sample.states"):
        method.check(Optimisation(), holding(degraded=True))


def test_states_that_cannot_be_used_are_neither_written_nor_read(run: RunFolder, data: PairData) -> None:
    store = PairStore.open(run.pairs, states=True)
    assert data.states is not None
    spoiled = data.states._replace(latents=data.states.latents.map(torch.clone))
    spoiled.latents.lose[3, 1] = torch.inf
    with pytest.raises(InputError, match=r"lose_states of 'c~1' is not finite"):
        replace(data, states=spoiled).verify(store.origin.shape)
    schema = pq.read_schema(run.pairs / "000000.parquet")
    place = schema.get_field_index("times")
    for other in (schema.set(place, pa.field("times", pa.list_(pa.float64(), 3))), schema.remove(place)):
        with pytest.raises(Damaged, match="no shard of pairs of format"):
            Origin.of(other, run.pairs)


RECIPE = """
name: run
model: {path: MODEL}
prompts: PROMPTS
sample: {pairs: 4, steps: 3, guidance: 1.0, batch: 4, states: 2}
draw: {states: visited}
train: {steps: 2, batch: 4, device_batch: 2}
validation: {final: 0}
trackers: []
"""


def test_a_recipe_trains_on_visited_states(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red cube\ntwo cats\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("MODEL", str(tiny_folder)).replace("PROMPTS", str(tmp_path / "prompts.txt")))
    with pytest.raises(InputError, match=r"draw.states: visited: no states are kept"):
        Workflow.start(load(path, [f"out={tmp_path}", "sample.states=0"]))
    with pytest.raises(InputError, match=r"sample.states 4: the sampler visits 3"):
        Workflow.start(load(path, [f"out={tmp_path}", "sample.states=4"]))
    Workflow.start(load(path, [f"out={tmp_path}"])).run(("degrade", "sample", "train"))
    log = read_rows(tmp_path / "run" / "log.jsonl")
    assert [row["step"] for row in log] == [1, 2]
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
