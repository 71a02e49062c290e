"""What goes wrong on one process ends all of them, with one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from commands import run
from preference_files import official

from ddspo import agreement
from ddspo.agreement import agree, alone
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.training import processes
from ddspo.training.optimisation import Optimisation


def beside(*others: tuple[bool, str]) -> Callable[[list[object]], list[object]]:
    """What is gathered where other processes found something too."""
    return lambda own: [*own, *others]


def fails() -> None:
    raise InputError("mine")


def test_every_process_raises_what_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's fault before any other; where it happened, the very error."""
    assert agree(lambda: 3) == 3
    monkeypatch.setattr(agreement, "gather_object", beside((False, "process 2: OSError: full"), (True, "theirs")))
    with pytest.raises(InputError, match=r"^theirs$"):
        agree(lambda: 3)
    with pytest.raises(InputError, match=r"^mine$"):
        agree(fails)
    with pytest.raises(ZeroDivisionError):
        agree(lambda: 1 // 0)
    monkeypatch.setattr(agreement, "gather_object", beside((False, "process 2: OSError: full")))
    with pytest.raises(RuntimeError, match=r"^process 2: OSError: full$"):
        alone(lambda: None)


def test_what_others_are_told_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(agreement, "gather_object", lambda own: told.extend(own) or own)
    with pytest.raises(ValueError, match="two"):
        agree(lambda: int("two\nlines"))
    with pytest.raises(InputError):
        agree(fails)
    (line, expected) = told
    assert line == (False, r"process 0: ValueError: invalid literal for int() with base 10: 'two\nlines'")
    assert expected == (True, "mine")


def test_processes_wait_for_long_work(tmp_path: Path) -> None:
    made = processes.accelerator(Optimisation(), "fp32", [], tmp_path)
    assert made.init_handler is not None
    assert made.init_handler.timeout == processes.PATIENCE
    assert processes.PATIENCE.days >= 7


def test_an_error_of_the_second_process_is_said_once(tmp_path: Path) -> None:
    """The second pair, which is the second process's, has latents of another model: neither waits for ever."""
    source = official(tmp_path / "set", [{}, {}], SD.tiny().latent_shape)
    odd = official(tmp_path / "odd", [{}, {}], (16, 4, 4))
    (odd / "latents/1.safetensors").rename(source / "latents/1.safetensors")
    SD.tiny().save(tmp_path / "model")
    given = {"source": str(source), "format": "official_latents", "batch": 1, "shard": 1}
    train = {"steps": 1, "batch": 2, "device_batch": 1}
    tree = {"name": "run", "out": str(tmp_path), "model": {"path": str(tmp_path / "model")}, "dataset": given}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree | {"train": train, "policy_pair": "forward_noise"}))
    said = run(["import", str(tmp_path / "r.yaml")], 2, code=2)
    lines = [line for line in said.err.splitlines() if "its latents are [16, 4, 4]" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"ddspo: dataset.source {source}: its latents are [16, 4, 4]")
