"""Seconds and peaks of updates and stages; the accelerator's own counter is one that is made up here."""

import pytest
import torch

from ddspo.training.clock import Clock

CUDA = torch.device("cuda")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes at most since the last reset; a reset leaves what is held, 1 here."""
    found = [1]
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: found[0])
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda device: found.__setitem__(0, 1))
    monkeypatch.setattr(Clock, "_most", 0)
    return found


def test_each_update_has_its_own_peak_and_the_stage_the_most(counter: list[int]) -> None:
    """Before the stage 90, texts 40, updates 30 and 20, pictures 50, nothing in the next stage but what is held."""
    counter[0] = 90
    Clock.peak(CUDA)
    counter[0] = 40
    peaks = []
    for bytes_ in (30, 20):
        clock = Clock(CUDA)
        counter[0] = bytes_
        peaks.append(clock.read()["peak_bytes"])
    assert peaks == [30, 20]
    counter[0] = 50
    assert Clock.peak(CUDA) == {"peak_bytes": 50}
    assert Clock.peak(CUDA) == {"peak_bytes": 1}


def test_texts_that_took_more_than_any_update_are_the_stages_peak(counter: list[int]) -> None:
    Clock.peak(CUDA)
    counter[0] = 40
    clock = Clock(CUDA)
    counter[0] = 30
    assert clock.read()["peak_bytes"] == 30
    assert Clock.peak(CUDA) == {"peak_bytes": 40}


def test_elsewhere_there_are_seconds_alone() -> None:
    clock = Clock(torch.device("cpu"))
    assert clock.read().keys() == {"seconds"}
    assert 0 <= clock.read()["seconds"] < 60
    assert Clock.peak(torch.device("cpu")) == {}
