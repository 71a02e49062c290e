"""Pair generation: shared noise, nothing that depends on batches or processes, any scheduler, damage is mended."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator

from ddspo import randomness
from ddspo.backbones._sampler import replaced, sampling_with
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.sana import Sana
from ddspo.backbones.sd import SD
from ddspo.backbones.sd3 import SD3
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.pairs.background import Behind, ahead
from ddspo.pairs.store import PairStore
from ddspo.pairs.writer import PairWriter
from ddspo.progress import Progress
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.sampling.options import Sampling
from ddspo.sampling.plan import Plan
from ddspo.stages.sample import sample

MODEL = Model("tiny")


def prompts(count: int, *, degraded: str = "{} less") -> list[dict[str, Any]]:
    texts = [f"a {chr(97 + number)}" for number in range(count)]
    return [
        {"id": f"p{n}", "prompt": text, "degraded": [{"text": degraded.format(text), "kind": "some"}], "seed": n}
        for n, text in enumerate(texts)
    ]


def sampled(run: RunFolder, **options: Any) -> PairStore:
    """Nine pairs of four prompts, in the orders 3 1 2 0, 1 2 0 3 and 3 1 2 0 that seed 5 gives."""
    if not run.prompts.exists():
        write_rows(run.prompts, prompts(4))
    settings = Sampling(**{"pairs": 9, "steps": 2, "guidance": 2, "batch": 2} | options)
    sample(run, SD.tiny(), MODEL, settings, 5, Accelerator(), Progress(speaks=False))
    return PairStore.open(run.pairs)


def files(run: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.pairs.iterdir()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    sampled(folder)
    return folder


def test_each_row_says_how_it_was_made(run: RunFolder) -> None:
    """Five shards of two, two, two, two and one; the latent of a row is what its seed and its texts give."""
    store, backbone = PairStore.open(run.pairs), SD.tiny()
    store.verify(backbone.latent_shape)
    assert store.sizes == [2, 2, 2, 2, 1]
    row = store.row(5)
    how = {"model": "tiny", "revision": None, "dtype": "fp32", "scheduler": "DDIMScheduler", "steps": 2, "guidance": 2}
    seed = randomness.stable_seed(5, "p2~1", "latent")
    assert row == {"id": "p2~1", "prompt": "a c", "degraded": "a c less", "kind": "some", "seed": seed, **how}
    some = store.take([5]).latents
    for side, text in zip(some, ("a c", "a c less"), strict=True):
        torch.testing.assert_close(side.float(), backbone.generate([text], [seed], 2, 2), rtol=1e-2, atol=1e-2)
    shown = read_rows(run.images / "pairs" / "pairs.jsonl")
    assert [each["id"] for each in shown] == [store.row(number)["id"] for number in range(9)]
    assert (run.images / "pairs" / "8-lose.png").exists()


def test_both_samples_begin_with_one_noise(tmp_path: Path) -> None:
    """Where the degraded prompt is the prompt, they are one, also under a scheduler that draws noise at every step."""
    run = RunFolder(tmp_path)
    write_rows(run.prompts, prompts(2, degraded="{}"))
    store = sampled(run, pairs=2, scheduler="EulerAncestralDiscreteScheduler", steps=3)
    latents = store.take([0, 1]).latents
    assert store.row(0)["scheduler"] == "EulerAncestralDiscreteScheduler"
    torch.testing.assert_close(latents.win, latents.lose, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(latents.win[0], latents.win[1], atol=0.1)


def test_batches_and_shards_change_nothing_but_rounding(run: RunFolder, tmp_path: Path) -> None:
    whole, other = PairStore.open(run.pairs), sampled(RunFolder(tmp_path), batch=5)
    assert other.sizes == [5, 4]
    ours, theirs = (store.take(range(9)) for store in (whole, other))
    assert (ours.ids, ours.prompts, ours.degraded) == (theirs.ids, theirs.prompts, theirs.degraded)
    for one, two in zip(ours.latents, theirs.latents, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-2)


def test_what_is_missing_or_damaged_is_made_again(run: RunFolder) -> None:
    before = files(run)
    assert sorted(before) == [*(f"00000{number}.parquet" for number in range(5)), "index.json", "layout.json"]
    (run.pairs / "000001.parquet").unlink()
    (run.pairs / "000003.parquet").write_bytes(before["000003.parquet"][:-9])
    sampled(run)
    assert files(run) == before


def test_pairs_of_other_settings_are_refused(run: RunFolder) -> None:
    with pytest.raises(InputError, match=r"000000.parquet: made with another guidance, recipe: choose another name"):
        sampled(run, guidance=3)
    with pytest.raises(InputError, match=r"000002.parquet: not one of these 2 shards"):
        sampled(run, pairs=4)


def plan(tmp_path: Path, **options: Any) -> Plan:
    write_rows(tmp_path / "prompts.jsonl", prompts(3))
    return Plan(tmp_path / "prompts.jsonl", Sampling(**options), 5)


class Empty(PairWriter):
    """A folder where nothing is."""

    def missing(self, shard: int, parts: int) -> list[int] | None:
        return list(range(parts))


class Begun(PairWriter):
    """A folder with one whole shard, one that is to be closed, and one of which half is there."""

    def missing(self, shard: int, parts: int) -> list[int] | None:
        return {0: None, 1: [], 2: [1]}.get(shard, list(range(parts)))


def test_each_process_owns_whole_shards(tmp_path: Path) -> None:
    """100 pairs in batches of 3 make 17 shards of 6; parts that are there are counted and not made."""
    given = plan(tmp_path, pairs=100, batch=3)
    assert (given.settings.layout.shard, len(given.settings.layout.sizes(100))) == (6, 17)
    writer = Begun(tmp_path, None)  # type: ignore[arg-type]
    alone = list(given.batches(writer, 0, 1))
    assert sum(len(batch.rows) for batch in alone) == 100
    assert [(b.shard, b.part, len(b.rows), b.closes) for b in alone[:6]] == [
        *[(0, None, 6, None), (1, None, 6, 2), (2, None, 3, None), (2, 1, 3, 2), (3, None, 0, None), (3, 0, 3, None)]
    ]
    assert alone[-1][:2] == (16, 1)
    assert [row["id"] for row in alone[0].rows] == ["p1~0", "p2~0", "p0~0", "p1~1", "p2~1", "p0~1"]
    shared = [batch for process in range(2) for batch in given.batches(writer, process, 2)]
    assert sorted(shared, key=lambda b: (b.shard, -1 if b.part is None else b.part)) == alone


def test_a_large_run_has_shards_of_the_size_that_was_asked_for() -> None:
    assert Sampling(pairs=200_000, batch=32).layout.shard == 1024
    assert Sampling(pairs=200_000, batch=48).layout.shard == 21 * 48
    assert Sampling(pairs=512, batch=64).layout.shard == 64
    assert Sampling(pairs=10**7, batch=8, shard=4096).layout.sizes(10**7)[2441:] == [10**7 - 2441 * 4096]


def test_an_item_of_the_plan_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, many = (
        [row for b in plan(tmp_path, pairs=n, batch=2).batches(Empty(tmp_path, None), 0, 1) for row in b.rows]  # type: ignore[arg-type]
        for n in (20, 200)
    )
    assert many[:20] == few
    assert len({row["id"] for row in many}) == 200


def test_few_pairs_are_of_prompts_from_all_over_the_file(tmp_path: Path) -> None:
    """Each turn takes every prompt once, in an order of its own; another seed has other ones.

    The mean place of 30 of 300 is 149.5; its standard deviation is sqrt(300^2 / 12 / 30 x 270 / 299) = 15.0.
    """
    write_rows(tmp_path / "prompts.jsonl", prompts(300))
    orders = []
    for seed in (5, 6):
        names = [row["id"] for row in Plan(tmp_path / "prompts.jsonl", Sampling(), seed).rows(0, 600)]
        turns = [[int(name[1:-2]) for name in names[first : first + 300]] for first in (0, 300)]
        assert [name[-2:] for name in names] == ["~0"] * 300 + ["~1"] * 300
        assert all(sorted(turn) == list(range(300)) for turn in turns)
        orders += turns
        assert np.mean(turns[0][:30]) == pytest.approx(149.5, abs=60)
    assert len({tuple(order) for order in orders}) == 4


def test_variants_take_their_turns_at_random(tmp_path: Path) -> None:
    """Of 900 pairs each of three variants has a third: the standard deviation of the share is sqrt(2/9 / 900) = 0.016.

    Another seed chooses others.
    """
    variants = [{"text": text, "kind": "some"} for text in "xyz"]
    write_rows(tmp_path / "prompts.jsonl", [row | {"degraded": variants} for row in prompts(3)])
    chosen = []
    for seed in (5, 6):
        plan = Plan(tmp_path / "prompts.jsonl", Sampling(pairs=900), seed)
        chosen.append([row["degraded"] for row in plan.rows(0, 900)])
    for text in "xyz":
        assert chosen[0].count(text) / 900 == pytest.approx(1 / 3, abs=0.065)
    same = np.mean([one == other for one, other in zip(*chosen, strict=True)])
    assert same == pytest.approx(1 / 3, abs=0.065)


def test_schedulers_of_a_model_that_predicts_noise() -> None:
    """The configuration is the model's own; two options differ."""
    backbone = SD.tiny()
    own = backbone.pipeline.scheduler
    with sampling_with(backbone, "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}):
        made = backbone.pipeline.scheduler
        assert type(made).__name__ == "DPMSolverMultistepScheduler"
        assert made.config.use_karras_sigmas
        assert torch.equal(made.alphas_cumprod, own.alphas_cumprod)
        assert torch.isfinite(backbone.generate(["a"], [1], 3, 2.0)).all()
    assert backbone.pipeline.scheduler is own


@pytest.mark.parametrize(
    ("backbone", "name", "shift"),
    [(SD3, "DPMSolverMultistepScheduler", "flow_shift"), (Sana, "FlowMatchEulerDiscreteScheduler", "shift")],
)
def test_a_flow_keeps_its_shift_under_another_scheduler(backbone: type[Backbone], name: str, shift: str) -> None:
    tiny = backbone.tiny()
    before = tiny.path
    with sampling_with(tiny, name, {}):
        assert tiny.pipeline.scheduler.config[shift] == pytest.approx(before.shift)  # type: ignore[attr-defined]
        assert tiny.path == before
        assert torch.isfinite(tiny.generate(["a"], [1], 3, 2.0)).all()


@pytest.mark.parametrize(
    ("backbone", "name", "options", "message"),
    [
        (
            SD,
            "DDIMSheduler",
            {},
            "sample.scheduler DDIMSheduler: no scheduler of diffusers: did you mean DDIM",
        ),
        (SD, "UNet2DModel", {}, "sample.scheduler UNet2DModel: no scheduler"),
        (SD, "DDIMScheduler", {"etta": 1}, "sample.scheduler_options.etta: DDIMScheduler has no such option"),
        (SD, None, {"prediction_type": "v_prediction"}, "not for this model, which DDIMScheduler samples"),
        (SD, "FlowMatchEulerDiscreteScheduler", {}, "not for this model, which DDIMScheduler samples"),
        (SD3, "DDIMScheduler", {}, "sample.scheduler DDIMScheduler: not for this model"),
    ],
)
def test_schedulers_that_do_not_fit(backbone: type[Backbone], name: str, options: Any, message: str) -> None:
    tiny = backbone.tiny()
    with pytest.raises(InputError) as caught:
        replaced(tiny.pipeline.scheduler, tiny.path, name, options)
    assert message in str(caught.value)


def test_a_scheduler_is_checked_before_the_model_is_loaded(tiny_folder: Path) -> None:
    model = Model(str(tiny_folder))
    Sampling(scheduler="DDPMScheduler").check(SD.check(model))
    with pytest.raises(InputError, match="not for this model, which DDIMScheduler samples"):
        Sampling(scheduler="FlowMatchEulerDiscreteScheduler").check(SD.check(model))


def test_noise_that_nobody_can_repeat_is_refused(tmp_path: Path) -> None:
    """The pipeline of SD3 hands no generator to a scheduler that draws at every step."""
    run = RunFolder(tmp_path)
    write_rows(run.prompts, prompts(1))
    settings = Sampling(pairs=1, steps=2, scheduler_options={"stochastic_sampling": True})
    with pytest.raises(InputError, match="draws noise that StableDiffusion3Pipeline does not let be seeded"):
        sample(run, SD3.tiny(), MODEL, settings, 5, Accelerator(), Progress(speaks=False))


def test_defaults_are_the_models() -> None:
    assert Sampling().how(SD.tiny()) == (25, 7.5)
    assert Sampling(guidance=3).how(SD3.tiny()) == (25, 3)


def test_work_behind_keeps_its_order_and_raises_its_errors() -> None:
    done: list[int] = []
    with Behind() as behind:
        for number in range(20):
            behind(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == list(range(20))
    behind = Behind(1)
    with pytest.raises(ZeroDivisionError), behind:
        behind(lambda: 1 // 0)
    assert list(ahead(iter(range(50)))) == list(range(50))
    with pytest.raises(ZeroDivisionError):
        list(ahead(1 // number for number in (1, 0)))


def test_the_shards_are_small_but_for_the_latents(run: RunFolder) -> None:
    """How a row was made is stored once: the columns are dictionaries."""
    group = pq.ParquetFile(run.pairs / "000000.parquet").metadata.row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    assert all("RLE_DICTIONARY" in columns[name].encodings for name in ("model", "scheduler", "steps", "guidance"))
    assert columns["win"].compression == "UNCOMPRESSED"
