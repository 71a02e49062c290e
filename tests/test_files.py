"""Files appear whole or not at all, for others to read; what dead writers left goes; a LoRA's header is in order."""

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ddspo import randomness
from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones.sd import SD
from ddspo.exports.base import save
from ddspo.files import replace_atomically, settle_header, tidy_beside, write_text
from ddspo.training.checkpoints import Checkpoints


@pytest.fixture(params=[0o022, 0o007])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def checkpoint(folder: Path) -> None:
    Checkpoints(folder, keep=1).write(1, {"weights": {"a": torch.ones(1)}}, "{}\n")


def aligned(folder: Path) -> None:
    backbone, how = SD.tiny(), LoRA(rank=2)
    for parameter in how.parameters(how.attach(backbone, 0).policy):
        parameter.data += 1
    replace_atomically(folder / "lora", lambda path: how.save(backbone, path))


def whole(folder: Path) -> None:
    replace_atomically(folder / "full", lambda path: Full().save(SD.tiny(), path))


def exported(folder: Path) -> None:
    weights = {"a.alpha": torch.ones(1), "a.lora_down.weight": torch.ones(2, 2)}
    replace_atomically(folder / "a.safetensors", lambda path: save(weights, path, "fp32", {"note": "x"}))


@pytest.mark.parametrize("write", [checkpoint, aligned, whole, exported])
def test_others_may_read_what_the_umask_lets_them(write: Callable[[Path], None], mask: int, tmp_path: Path) -> None:
    write(tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_nothing_and_what_was_there(error: BaseException, tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("x")
        raise error

    write_text(tmp_path / "a", "old")
    for name in ("a", "b"):
        with pytest.raises(type(error)):
            replace_atomically(tmp_path / name, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("x")
    replace_atomically(tmp_path / "a", lambda path: path.mkdir())
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_what_dead_writers_left_beside_a_path_goes(tmp_path: Path) -> None:
    """That of a process that lives, of another machine and of another path stays."""
    here = socket.gethostname()
    dead, alive = f".a.{here}.4194304.partial", f".a.{here}.{os.getpid()}.partial"
    others = (alive, ".a.elsewhere.4194304.partial", f".b.{here}.4194304.partial")
    for name in (dead, *others):
        (tmp_path / name).write_text("half")
    tidy_beside(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_a_header_is_put_into_order_and_says_the_same(tmp_path: Path) -> None:
    notes = {f"note {number}": "ä" * number for number in range(9)}
    tensors = {name: torch.full((2,), float(number)) for number, name in enumerate("cab")}
    written = set()
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        save_file(tensors, path, notes)
        settle_header(path)
        written.add(path.read_bytes())
        with safe_open(path, "pt") as file:
            assert file.metadata() == notes
            assert all(torch.equal(file.get_tensor(name), value) for name, value in tensors.items())
    assert len(written) == 1
    data = written.pop()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header) == sorted(header)


def test_all_bits_of_a_seed_count() -> None:
    """A generator of torch keeps 32: seeds that share them would share their noise."""
    one, other, same = randomness.normal([5, 5 + 2**32, 5], (3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    many = randomness.normal([randomness.stable_seed(number) for number in range(2000)], (50,))
    assert many.dtype == torch.float32
    assert abs(float(many.mean())) < 0.01
    assert abs(float(many.std()) - 1) < 0.01
