"""Which model a recipe means: its files' content, or the commit of a hub id."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from ddspo import hub as _hub
from ddspo.backbones._identity import identity
from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.errors import InputError

COMMITS = ("a" * 40, "b" * 40)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def test_the_same_files_elsewhere(folder: Path, tmp_path: Path) -> None:
    """With a README, which loading does not read, and weights of a variant that is not asked for."""
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/README.md").write_text("words")
    unet = tmp_path / "copy/unet"
    shutil.copy(unet / "diffusion_pytorch_model.safetensors", unet / "diffusion_pytorch_model.fp16.safetensors")
    assert identity(Model(str(folder))) == identity(Model(str(tmp_path / "copy")))
    assert identity(Model(str(folder))) != identity(Model(str(tmp_path / "copy"), variant="fp16"))


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_other_weights_are_another_model(folder: Path, name: str) -> None:
    before, path = identity(Model(str(folder))), folder / f"{name}.safetensors"
    weights = load_file(path)
    key = next(iter(weights))
    weights[key] = weights[key] + 1e-3
    save_file(weights, path, {"format": "pt"})
    assert identity(Model(str(folder))) != before


@pytest.mark.parametrize(
    "name", ["scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "unet/config.json", "model_index.json"]
)
def test_other_words_about_them_too(folder: Path, name: str) -> None:
    before, path = identity(Model(str(folder))), folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 1}))
    assert identity(Model(str(folder))) != before


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with two commits of one model, the first of which is the main branch's."""
    home = tmp_path / "models--somebody--some-model"
    for commit in COMMITS:
        shutil.copytree(tiny_folder, home / "snapshots" / commit)
    move(home, COMMITS[0])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return home


def move(home: Path, commit: str) -> None:
    """The main branch moves, and another process begins."""
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs/main").write_text(commit)
    _hub.snapshot.cache_clear()


def test_a_branch_that_moves_is_another_model(hub: Path) -> None:
    model = Model("somebody/some-model")
    assert identity(model) == "a" * 16
    move(hub, COMMITS[1])
    assert identity(model) == "b" * 16
    assert identity(Model("somebody/some-model", revision="a" * 40)) == "a" * 16


def test_a_process_reads_one_commit(hub: Path) -> None:
    model = Model("somebody/some-model")
    before = identity(model)
    (hub / "refs/main").write_text(COMMITS[1])
    assert identity(model) == before


def test_a_model_of_the_hub_loads_without_a_network(hub: Path) -> None:
    loaded = SD.load(Model("somebody/some-model"))
    assert torch.isfinite(loaded.encode(["a b"])["encoder_hidden_states"]).all()


def test_neither_here_nor_reached(hub: Path) -> None:
    with pytest.raises(InputError, match="somebody/another: no such folder here, and the hub did not answer"):
        identity(Model("somebody/another"))
