"""What `ddspo show --cost` counts, by hand on a tiny pipeline and against the pipeline when it is loaded."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from ddspo.backbones._outline import outline
from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.cli import app
from ddspo.cost import _once, memory
from ddspo.cost.activations import of_forwards, of_texts
from ddspo.cost.shapes import condition_shapes, model_outline, network_size
from ddspo.cost.table import with_unit
from ddspo.cost.total import Cost, cost
from ddspo.errors import InputError
from ddspo.recipe import load
from ddspo.training.policies import Policies

SCENES = Path(__file__).parents[1] / "recipes/scenes.yaml"
SETTINGS = [
    *("sample.pairs=6", "sample.steps=5", "sample.guidance=3", "adaptation.lora.rank=2"),
    *("train.steps=3", "train.batch=4", "train.device_batch=2", "train.keep=2", "evaluate=null"),
    *("validation.every=0", "validation.final=0"),
]
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.fixture
def configurations(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny pipeline's folder without a single weight."""
    weights = shutil.ignore_patterns("*.safetensors", "*.bin")
    return Path(shutil.copytree(tiny_folder, tmp_path / "configurations", ignore=weights))


def counted(folder: Path, *overrides: str) -> Cost:
    return cost(load(SCENES, [*SETTINGS, f"model.path={folder}", *overrides]))


def parts(backbone: SD) -> dict[str, nn.Module]:
    return {name: part for name, part in backbone.pipeline.components.items() if isinstance(part, nn.Module)}


def test_an_outline_is_the_model_without_its_weights(tiny_folder: Path, configurations: Path) -> None:
    found, loaded = parts(outline(SD, Model(str(configurations)))), parts(SD.load(Model(str(tiny_folder))))
    assert found.keys() == loaded.keys() == {"unet", "vae", "text_encoder"}
    for name, part in found.items():
        shapes = {key: tensor.shape for key, tensor in part.named_parameters()}
        assert shapes == {key: tensor.shape for key, tensor in loaded[name].named_parameters()}
        assert all(tensor.is_meta for tensor in part.parameters())
    half = outline(SD, Model(str(configurations), dtype="fp16"))
    assert {tensor.dtype for part in parts(half).values() for tensor in part.parameters()} == {torch.float16}
    assert torch.get_default_dtype() == torch.float32


def test_an_outline_on_a_device_predicts(configurations: Path) -> None:
    backbone = outline(SD, Model(str(configurations)), device="cpu")
    x = torch.randn(1, *backbone.latent_shape)
    assert torch.isfinite(backbone.predict(backbone.denoiser, x, torch.tensor([3]), backbone.encode(["a"]))).all()


def test_work_by_hand(configurations: Path) -> None:
    """6 pairs are 12 latents; 5 steps of DDIM under guidance take 10 forwards each: 120. 3 updates of 4 pairs see 12.

    A training-free pair takes 3 frozen forwards, 36 in all, and 2 of the policy, 24; a backward is counted as two
    forwards, so all together are 120 + 36 + 3 x 24 = 228.
    """
    work = counted(configurations).work
    assert (work.pairs, work.samples, work.train_texts) == (6, 12, 12)
    assert (work.sample_forwards, work.frozen_forwards, work.policy_forwards) == (120, 36, 24)
    assert (work.updates, work.pairs_trained, work.evaluate_forwards) == (3, 12, 0)
    assert work.total_flops == 228 * work.forward_flops
    assert counted(configurations, "train.window=1e-6").host.latents_bytes == 1073
    other = counted(configurations, "sample.guidance=1", "policy_pair=forward_noise").work
    assert (other.sample_forwards, other.frozen_forwards) == (60, 24)
    assert other.train_texts == 6  # it reads no degraded one


def test_one_latent_for_both_branches(configurations: Path) -> None:
    """A frozen and a policy forward less a pair, 12 x 2 and 12 x 1, and one sample: 6 x 10 forwards, half the disk."""
    found, both = counted(configurations, "draw.latents=winner"), counted(configurations)
    assert (found.work.frozen_forwards, found.work.policy_forwards) == (24, 12)
    assert (found.work.samples, found.work.sample_forwards) == (6, 60)
    assert 2 * found.disk.pairs_bytes == both.disk.pairs_bytes
    states = counted(configurations, "draw.latents=winner", "draw.noise=independent").work  # two states of one latent
    assert (states.samples, states.frozen_forwards, states.policy_forwards) == (6, 36, 24)
    two = counted(configurations, "draw.latents=winner", "policy_pair=text_preference").work  # prompts
    assert (two.samples, two.frozen_forwards, two.policy_forwards, two.train_texts) == (6, 24, 24, 12)


def test_texts_that_are_encoded_during_training_are_not_kept(configurations: Path) -> None:
    """Then every pair that is seen, 12, brings its two texts."""
    found = counted(configurations, "train.encode=during")
    assert (found.disk.conditions_bytes, found.work.train_texts) == (0, 24)


def test_labelled_pairs_by_hand(configurations: Path) -> None:
    """Of 6 prompts 4 candidates each, 10 forwards a latent: 240; and a pair has one text."""
    labels = "sample.labels={candidates: 4, judge: {geneval: {detector: scenes}}}"
    work = counted(configurations, labels).work
    assert (work.samples, work.sample_forwards, work.train_texts) == (24, 240, 6)


def test_the_evaluation_by_hand(configurations: Path, tmp_path: Path) -> None:
    """2 models x (2 validation rows x 2 images x (4 + 8 forwards) + 3 rows x 5 images x 8): 2 x (48 + 120) = 336.

    At guidance 1 four steps take 4 forwards, at 2 they take 8, which the evaluation rows are counted with.
    """
    row = '{{"prompt": "a b", "id": "{}", "tag": "colors", "include": []}}\n'
    files = {name: tmp_path / f"{name}.jsonl" for name in ("validation", "prompts")}
    files["validation"].write_text("".join(row.format(number) for number in range(2)))
    files["prompts"].write_text("".join(row.format(number) for number in range(3)))
    group = (
        f"{{prompts: {files['prompts']}, validation: {files['validation']}, "
        "metrics: [{geneval: {detector: scenes}}], scales: [1, 2], steps: 4, images: 5, validation_images: 2}"
    )
    assert counted(configurations, f"evaluate={group}").work.evaluate_forwards == 336


def test_options_of_training_by_hand(configurations: Path) -> None:
    """One latent spares one forward of either kind: 12 pairs take 24 frozen and 12 policy forwards.

    Validations of 6 images after updates 2 of 3, 4 steps without guidance: once for the base and once for the policy,
    48 forwards; in the end both draw 2 more, 16 forwards. A moving average is one more copy of the weights, in each of
    2 + 1 checkpoints too.
    """
    plain = counted(configurations)
    given = (
        "draw.latents=winner",
        "train.average=0.9",
        "validation={every: 2, guidance: 1, steps: 4, scored: 6, final: 2}",
    )
    found = counted(configurations, *given)
    assert (found.work.frozen_forwards, found.work.policy_forwards) == (24, 12)
    assert (plain.work.validation_forwards, found.work.validation_forwards) == (0, 64)
    adapter = plain.device.trained_bytes
    assert (plain.device.average_bytes, found.device.average_bytes) == (0, adapter)
    assert found.disk.checkpoints_bytes == 3 * (2 * adapter + found.device.optimizer_bytes)
    trains = found.device.frozen_bytes + adapter + found.device.gradients_bytes + found.device.optimizer_bytes
    assert found.device.total_bytes == trains + adapter + found.device.activations_bytes


def test_operations_of_a_linear_network() -> None:
    """With m x k by k x n, 2 m k n operations; torch counts them, this pins what is asked of it."""
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        nn.Linear(3, 5, device="meta")(torch.empty(2, 3, device="meta"))
    assert counter.get_total_flops() == 2 * 2 * 3 * 5


def test_bytes_by_hand(configurations: Path, tiny_folder: Path) -> None:
    """A latent has 4 x 8 x 8 numbers, in half precision 512 B; 12 of them. A condition has 16 tokens of 16 numbers.

    An adapter of rank 2 beside a linear layer of m inputs and n outputs has 2 (m + n) weights in two matrices; with
    two moments each and a number of updates a matrix, a checkpoint holds three times their bytes and 4 B for each, and
    two are kept.
    """
    found = counted(configurations)
    loaded = SD.load(Model(str(tiny_folder)))
    linear = [module for name, module in loaded.denoiser.named_modules() if name.endswith(TARGETS)]
    adapter = 4 * sum(2 * (module.in_features + module.out_features) for module in linear)
    everything = sum(network_size(part) for part in parts(loaded).values())
    assert len(linear) > 0
    assert found.disk.pairs_bytes == found.host.latents_bytes == 12 * 512
    assert found.disk.conditions_bytes == 12 * 16 * 16 * 4
    assert found.device.trained_bytes == found.device.gradients_bytes == found.disk.aligned_bytes == adapter
    assert found.device.optimizer_bytes == 2 * adapter + 2 * 4 * len(linear)
    assert found.disk.checkpoints_bytes == 2 * (3 * adapter + 2 * 4 * len(linear))
    assert found.host.others_bytes == everything - found.device.frozen_bytes
    assert found.host.model_bytes == everything


def test_what_is_beside_the_denoiser_by_hand(configurations: Path, tiny_folder: Path) -> None:
    """Nothing where texts are encoded before; with the text encoder at work it alone."""
    loaded = SD.load(Model(str(tiny_folder))).pipeline
    text, every = network_size(loaded.text_encoder), network_size(loaded.text_encoder) + network_size(loaded.vae)
    for overrides, on_device in (
        ((), 0),
        (("train.encode=during",), text),
    ):
        found = counted(configurations, *overrides)
        assert found.device.others_bytes == on_device
        assert found.host.others_bytes == every - text * ("train.encode=during" in overrides)


def test_rounds_by_hand(configurations: Path) -> None:
    """A round an update: the first of three is that of `sample`, then come two more, 120 forwards and 12 texts each.

    Two checkpoints are kept, and so may be two rounds beside the one at work; there are only two.
    """
    found = counted(configurations, "on_policy.every=1")
    assert (found.work.pairs, found.work.samples, found.work.sample_forwards) == (6, 36, 360)
    assert (found.work.train_texts, found.disk.pairs_bytes) == (36, 3 * 12 * 512)


def test_states_by_hand(configurations: Path) -> None:
    """Two beside each latent make three times the bytes, in memory only where they are trained on."""
    kept, drawn = (counted(configurations, "sample.states=2", *more) for more in ([], ["draw.states=visited"]))
    assert (kept.disk.pairs_bytes, kept.host.latents_bytes) == (3 * 12 * 512, 12 * 512)
    assert (drawn.disk.pairs_bytes, drawn.host.latents_bytes) == (3 * 12 * 512, 3 * 12 * 512)


def test_full_fine_tuning_holds_a_frozen_copy(configurations: Path, tiny_folder: Path) -> None:
    """All P weights: P x 4 B trained, as much of gradients, twice that of moments, and a copy of P x 2 B in half.

    A number of updates for each tensor comes to the moments.
    """
    sizes = [parameter.numel() for parameter in SD.load(Model(str(tiny_folder))).denoiser.parameters()]
    count, device = sum(sizes), counted(configurations, "adaptation=full", "model.dtype=fp16").device
    assert (device.frozen_bytes, device.trained_bytes) == (2 * count, 4 * count)
    assert device.optimizer_bytes == 8 * count + 4 * len(sizes)


DATA_DRIVEN = ["policy_pair=data_driven", "pretrain.train.steps=5", "pretrain.train.batch=4", "pretrain.train.keep=1"]


def test_a_data_driven_pair_adds_two_adapters(configurations: Path) -> None:
    """Of rank 4 beside one of rank 2, each has twice its bytes a; a data-driven pair takes 4 frozen forwards.

    Winner and loser are 4a together. While they are trained, 4 x 4a beside the base; afterwards 4a more than without.
    On disk, 4a of weights and one checkpoint of theirs and their moments. 5 updates of 4 pairs take 40 forwards.
    """
    plain = counted(configurations)
    found = counted(configurations, *DATA_DRIVEN, "pretrain.adaptation.lora.rank=4")
    a = plain.device.trained_bytes
    assert found.work.pretrain_forwards == 40
    assert found.work.frozen_forwards == 12 * 4
    assert found.work.total_flops == (120 + 3 * 40 + 48 + 3 * 24) * found.work.forward_flops
    assert found.device.frozen_bytes == plain.device.frozen_bytes + 4 * a
    assert found.device.trained_bytes == a
    assert found.pretraining is not None
    assert found.pretraining.trained_bytes == 4 * a
    assert found.pretraining.frozen_bytes == plain.device.frozen_bytes
    assert found.disk.pretraining_bytes == 4 * a + 4 * a + found.pretraining.optimizer_bytes
    assert plain.pretraining is None
    assert plain.disk.pretraining_bytes == plain.work.pretrain_forwards == 0


def test_full_winner_and_loser_are_two_more_networks(configurations: Path) -> None:
    """In half precision: 3 frozen copies of n beside the trained 2n; while pretraining, two of 2n and none frozen."""
    found = counted(configurations, *DATA_DRIVEN, "pretrain.adaptation=full", "adaptation=full", "model.dtype=fp16")
    n = found.device.trained_bytes // 2
    assert found.device.frozen_bytes == 3 * n
    assert found.pretraining is not None
    assert (found.pretraining.frozen_bytes, found.pretraining.trained_bytes) == (0, 4 * n)


def test_a_reference_that_moves_is_counted(configurations: Path) -> None:
    """One more adapter beside the trained one."""
    plain, moving = counted(configurations), counted(configurations, "reference=ema")
    assert moving.device.frozen_bytes == plain.device.frozen_bytes + plain.device.trained_bytes


@pytest.mark.parametrize("adaptation", ["adaptation.lora.rank=2", "adaptation=full"])
def test_training_really_holds_these_bytes(configurations: Path, tiny_folder: Path, adaptation: str) -> None:
    """One update of the loaded pipeline leaves gradients and moments of the size that was counted."""
    device = counted(configurations, adaptation).device
    chosen = load(SCENES, [*SETTINGS, adaptation]).adaptation
    policies = Policies.of(SD.load(Model(str(tiny_folder))), chosen, seed=0)
    parameters = [parameter for group in policies.groups().values() for parameter in group]
    optimizer = torch.optim.AdamW(parameters)
    backbone = policies.backbone
    x, condition = torch.randn(1, *backbone.latent_shape), backbone.encode(["a"])
    policies.policy(x, torch.tensor([3]), condition).square().mean().backward()
    optimizer.step()
    gradients = sum(4 * parameter.grad.numel() for parameter in parameters if parameter.grad is not None)
    moments = sum(4 * value.numel() for each in optimizer.state.values() for value in each.values())
    assert (gradients, moments) == (device.gradients_bytes, device.optimizer_bytes)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("a_bytes", 512, "512 B"),
        ("a_bytes", 3 * 2**30 // 2, "1.5 GiB"),
        ("a_bytes", 0, "0 B"),
        ("a_flops", 804_000_000_000, "804 GFLOP"),
        ("a_flops", 10_310_000_000_000_000_000, "10.31 EFLOP"),
        ("forwards", 12800000, "12,800,000"),
    ],
)
def test_units(name: str, value: int, text: str) -> None:
    assert with_unit(name, value) == text


def test_the_command_prints_it_and_starts_nothing(configurations: Path, tmp_path: Path) -> None:
    arguments = ["show", str(SCENES), *SETTINGS, f"model.path={configurations}", f"out={tmp_path / 'runs'}", "--cost"]
    printed = CliRunner().invoke(app, arguments, terminal_width=200)
    assert printed.exit_code == 0
    assert "forwards of sampling" in printed.output
    assert "120" in printed.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [("/nowhere", "no model_index.json there"), ("somebody/some-model", "the hub did not answer")],
)
def test_a_model_that_is_not_there(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_outline(Model(path))


def test_a_part_of_an_unknown_library(configurations: Path) -> None:
    """Only classes of the two known libraries are looked up: an index cannot import anything else."""
    index = configurations / "model_index.json"
    index.write_text(index.read_text().replace('"transformers"', '"os"'))
    with pytest.raises(InputError, match=r"text_encoder is a os\.CLIPTextModel, which is no class of"):
        model_outline(Model(str(configurations)))


@pytest.mark.parametrize(
    ("override", "again"),
    [("sample.pairs=60", False), ("train.steps=7", False), ("train.device_batch=1", True), ("model.dtype=bf16", True)],
)
def test_what_was_counted_of_a_model_is_not_counted_again(
    configurations: Path, monkeypatch: pytest.MonkeyPatch, override: str, again: bool
) -> None:
    """A step of the same model takes the same bytes, however many pairs and updates there are."""
    steps: list[int] = []
    real = memory.of_step
    monkeypatch.setattr(memory, "of_step", lambda *given: steps.append(1) or real(*given))
    monkeypatch.setattr(_once, "_FOUND", {})
    first, second = counted(configurations), counted(configurations, override)
    assert len(steps) == 1 + again
    assert (first.device == second.device) is not again
    monkeypatch.setattr(_once, "_FOUND", {})
    assert counted(configurations, override) == second


def test_stages_by_hand(configurations: Path, tiny_folder: Path) -> None:
    """Everything is loaded to sample; texts are encoded beside it; then the denoiser trains alone.

    What is beside it waits, with the pairs.
    """
    found = counted(configurations, "sample.batch=2", "validation.final=2", "validation.steps=1")
    stages, loaded = {stage.name: stage for stage in found.stages}, SD.load(Model(str(tiny_folder)))
    whole = sum(network_size(part) for part in parts(loaded).values())
    beside = whole - network_size(loaded.denoiser)
    assert [*stages] == ["degrade", "sample", "texts", "train", "pictures"]
    assert [stage.loads for stage in found.stages] == [0, 1, 0, 1, 1]
    assert found.host.model_bytes == stages["sample"].host_bytes == stages["texts"].host_bytes == whole
    outlined, shape = outline(SD, Model(str(configurations))), loaded.latent_shape
    latents = 4 * torch.Size(shape).numel() * 4  # two pairs
    predictions = of_forwards(outlined, condition_shapes(outlined), 2 * 4)  # and twice for guidance
    assert stages["sample"].device_bytes == whole + latents + max(predictions, of_texts(outlined, 4))
    assert stages["texts"].device_bytes == whole + of_texts(outlined, 64)
    assert stages["train"].device_bytes == max(found.device.total_bytes, whole)
    assert stages["train"].host_bytes == max(whole, beside + 12 * 512)
    assert found.most_bytes == max(stage.device_bytes for stage in found.stages)
    assert found.most_host_bytes == whole


def test_a_validation_holds_the_policy_and_all_parts(configurations: Path) -> None:
    """Moments stay; gradients and activations of the step are gone; the judge comes when the parts rest again."""
    found = counted(configurations, "validation={every: 1, steps: 1, guidance: 1, pictures: 2, final: 0}")
    stage = next(stage for stage in found.stages if stage.name == "validation")
    held = found.device.frozen_bytes + found.device.trained_bytes + found.device.optimizer_bytes
    assert stage.device_bytes > held + found.host.others_bytes
    assert stage.images == 4 * 2
    assert "rounds" in {each.name for each in counted(configurations, "on_policy.every=1").stages}
