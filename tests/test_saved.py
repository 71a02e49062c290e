"""What is saved is read again: an adapter that changes nothing, and files that are not what was written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddspo.adaptations.lora import LoRA
from ddspo.backbones import _denoiser
from ddspo.backbones.pixart import PixArt
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.exports import base
from ddspo.exports._adapter import LORA, adapter_in
from ddspo.files import replace_atomically
from ddspo.saved import verify


@pytest.mark.parametrize("kind", [SD, PixArt])
def test_an_adapter_that_is_of_no_use_is_refused(kind: Any, tmp_path: Path) -> None:
    """At the start B is zero, which nobody exports; what is not finite is not written. Diffusers' file and PEFT's."""
    backbone, how = kind.tiny(), LoRA(rank=2)
    parameters = how.parameters(how.attach(backbone, 0).policy)
    replace_atomically(tmp_path / "idle", lambda path: how.save(backbone, path))
    with pytest.raises(InputError, match="its updates are all zero, so it changes nothing"):
        adapter_in(tmp_path / "idle", backbone.denoiser_name)
    parameters[0].data += float("nan")
    with pytest.raises(InputError, match="holds numbers that are not finite") as raised:
        replace_atomically(tmp_path / "aligned", lambda path: how.save(backbone, path))
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "aligned").exists()


def test_one_other_bit_of_an_adapter_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, how = SD.tiny(), LoRA(rank=2)
    for parameter in how.parameters(how.attach(backbone, 0).policy):
        parameter.data += 1
    save = _denoiser.WithDenoiser.save_lora

    def damaged(self: Any, folder: Path, layers: Any, metadata: Any) -> None:
        name = next(iter(layers))
        save(self, folder, layers | {name: torch.nextafter(layers[name], torch.tensor(9.0))}, metadata)

    monkeypatch.setattr(_denoiser.WithDenoiser, "save_lora", damaged)
    with pytest.raises(InputError, match="is not there as it was written: check the disk"):
        how.save(backbone, tmp_path)

    def weaker(self: Any, folder: Path, layers: Any, metadata: Any) -> None:
        save(self, folder, layers, metadata | {"lora_alpha": 15.0})

    monkeypatch.setattr(_denoiser.WithDenoiser, "save_lora", weaker)
    with pytest.raises(InputError, match="is not there as it was written: check the disk"):
        how.save(backbone, tmp_path)


def test_exports_and_pipelines_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that loses a tensor."""
    monkeypatch.setattr(
        base, "save_file", lambda held, *args, **more: save_file(dict([*held.items()][1:]), *args, **more)
    )
    with pytest.raises(InputError, match=r"x\.safetensors: 'a' is not there as it was written"):
        base.save({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "x.safetensors", "bf16", {})
    backbone = SD.tiny()
    backbone.save(tmp_path / "whole")
    (file,) = (tmp_path / "whole" / "unet").glob("*.safetensors")
    weights = load_file(file)
    del weights["conv_in.bias"]
    save_file(weights, file)
    with pytest.raises(InputError, match=r"'conv_in\.bias' is not there as it was written"):
        verify([file], backbone.denoiser.state_dict())
    assert LORA not in {each.name for each in tmp_path.rglob("*")}


def test_tensors_are_compared_to_the_bit(tmp_path: Path) -> None:
    """Of one type and shape; what is no number is itself."""
    held = {"a": torch.tensor([[1.0, float("nan")]]), "b": torch.tensor(2.0)}
    save_file(held, tmp_path / "x.safetensors")
    verify([tmp_path / "x.safetensors"], held)
    for other in (held["a"].T, held["a"].half(), held["a"] + 1):
        with pytest.raises(InputError, match="'a' is not there as it was written"):
            verify([tmp_path / "x.safetensors"], held | {"a": other.contiguous()})
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not read again after it was written"):
        verify([tmp_path / "x.safetensors"], held)
