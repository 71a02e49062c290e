"""Conditions of texts in files: each is encoded once, by some process, and all of them read it."""

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddspo.adaptations.lora import LoRA
from ddspo.backbones.base import Backbone
from ddspo.backbones.sd import SD
from ddspo.backbones.sd3 import SD3
from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.objectives.logistic import Logistic
from ddspo.pairs.data import PairData
from ddspo.policy_pairs.base import PolicyPair
from ddspo.policy_pairs.forward_noise import ForwardNoise
from ddspo.policy_pairs.training_free import TrainingFree
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder
from ddspo.stages.pretrain import Pretraining, pretrain
from ddspo.stages.train import Method, train
from ddspo.training import texts as module
from ddspo.training.optimisation import Optimisation
from ddspo.training.processes import accelerator
from ddspo.training.texts import FREE, Encode, EncodedTexts, conditions_of

CPU = torch.device("cpu")
SETTINGS = Optimisation(steps=1, batch=2, device_batch=2)


def as_process(index: int, of: int) -> SimpleNamespace:
    return SimpleNamespace(process_index=index, num_processes=of, is_main_process=index == 0)


def encoded(monkeypatch: pytest.MonkeyPatch, backbone: type[Backbone]) -> list[list[str]]:
    """What is encoded from now on, batch by batch."""
    seen: list[list[str]] = []
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda self, texts: seen.append(list(texts)) or encode(self, texts))
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_what_was_encoded(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, in its own precision, batches of two: of SD3, which gives two tensors."""
    backbone = SD3.tiny()
    backbone.pipeline.to(dtype)
    monkeypatch.setattr(module, "ENCODED_AT_ONCE", 2)
    parts = [backbone.encode(part) for part in (["a", "b"], ["c", "d"], ["e"])]
    found = EncodedTexts(backbone, ["e", "d", "c", "b", "a", "e"], tmp_path).of(["a", "b", "c", "d", "e"], CPU)
    assert set(found) == {"encoder_hidden_states", "pooled_projections"}
    for name, rows in found.items():
        assert rows.dtype == dtype
        assert torch.equal(rows, torch.cat([part[name] for part in parts]))


def test_processes_share_the_work_and_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five batches the second of two processes encodes two; together they leave what one alone leaves."""
    monkeypatch.setattr(module, "ENCODED_AT_ONCE", 2)
    backbone, texts = SD.tiny(), [chr(97 + number) for number in range(9)]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    EncodedTexts(backbone, texts, whole)
    shared.mkdir()
    one, seen = backbone.encode([""]), encoded(monkeypatch, SD)
    for process, mine in ((1, ["cd", "gh"]), (0, ["ab", "ef", "i"])):
        monkeypatch.setattr(module, "PartialState", lambda process=process: as_process(process, of=2))
        module._write(backbone, texts, one, shared)
        assert ["".join(each) for each in seen] == mine
        seen.clear()
    assert {path.name: path.read_bytes() for path in shared.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_nothing_of_them_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While they are written, one batch is: the file is mapped, not read. Afterwards the files go."""
    backbone = SD.tiny()
    sizes: list[int] = []
    write = module._write
    monkeypatch.setattr(module, "_write", lambda *given: write(*given) or sizes.append(len(given[1])))
    with conditions_of(backbone, ["b", "a", "b"], "before", tmp_path / "c") as conditions:
        assert isinstance(conditions, EncodedTexts)
        assert sizes == [2]
        (path,) = (tmp_path / "c").iterdir()
        (table,) = conditions._table.values()
        assert path.stat().st_size == table.nbytes
        with path.open("r+b") as file:  # what changes in the file is seen in the table: they are the same memory
            file.write(torch.full((1,), 7.0).numpy().tobytes())
        assert conditions.of(["a"], CPU)[path.name].flatten()[0] == 7
    assert not (tmp_path / "c").exists()


def test_what_a_killed_training_left_goes_too(tmp_path: Path) -> None:
    """Also where the next one encodes its texts otherwise."""
    modes: list[Encode] = ["before", "during"]
    for encode in modes:
        folder = tmp_path / encode
        folder.mkdir()
        (folder / "old").touch()
        with conditions_of(SD.tiny(), ["a"], encode, folder) as conditions:
            assert len(conditions.of(["a"], CPU)["encoder_hidden_states"]) == 1
            assert (folder / "old").exists() == (encode == "during")
        assert not folder.exists()


def test_texts_that_do_not_fit_are_named_before_they_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for ten conditions: the eleventh of endlessly many texts is one too many; ten are kept."""
    backbone = SD.tiny()
    each = sum(rows.nbytes for rows in backbone.encode([""]).values())
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10.5 * each / FREE))
    with pytest.raises(InputError, match=r"more than 10 texts, each with a condition of .* use train.encode=during"):
        EncodedTexts(backbone, (str(number) for number in count()), tmp_path)
    assert len(EncodedTexts(backbone, ["a", "b"] * 5, tmp_path).of(["b"], CPU)["encoder_hidden_states"]) == 1


def pairs(backbone: Backbone) -> PairData:
    latents = Pair(*torch.randn(2, 2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0)))
    return PairData(["0", "1"], ["a", "b"], ["c", "d"], latents)


@pytest.mark.parametrize(("pair", "expected"), [(TrainingFree(), "abcd"), (ForwardNoise(), "ab")])
def test_what_a_policy_pair_never_reads_is_not_encoded(
    pair: PolicyPair, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, method, made = (
        SD.tiny(),
        Method(pair, Logistic(), LoRA(rank=2)),
        accelerator(SETTINGS, "fp32", [], tmp_path),
    )
    seen = encoded(monkeypatch, SD)
    train(RunFolder(tmp_path), backbone, pairs(backbone), method, SETTINGS, 3, made, Progress(speaks=False))
    assert seen == [[""], list(expected)]


def test_pretraining_reads_no_degraded_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, settings, made = (
        SD.tiny(),
        Pretraining(LoRA(rank=2), SETTINGS),
        accelerator(SETTINGS, "fp32", [], tmp_path),
    )
    seen = encoded(monkeypatch, SD)
    pretrain(RunFolder(tmp_path), backbone, pairs(backbone), settings, 3, made, Progress(speaks=False))
    assert seen == [[""], ["a", "b"]]
