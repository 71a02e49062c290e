"""The moving average of weights, by hand and through a state."""

import pytest
import torch

from ddspo.training.average import Average


def test_average_by_hand() -> None:
    """Weights 1, 2, 4, 8 after the updates n = 1 ... 4, decay 0.25, m = min(0.25, n / (n + 9)).

    s_1 = 1; m_2 = 2/11: s_2 = 2/11 + 2 * 9/11 = 20/11; m_3 = 3/12 = 0.25: s_3 = 0.25 * 20/11 + 3 = 38/11;
    m_4 = min(0.25, 4/13) = 0.25: s_4 = 0.25 * 38/11 + 6 = 151/22.
    """
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average = Average([weight], 0.25)
    for value, expected in ((1, 1), (2, 20 / 11), (4, 38 / 11), (8, 151 / 22)):
        weight.data.fill_(value)
        average.follow()
        assert average.state()["0"].item() == pytest.approx(expected, abs=1e-12)
    with average.applied():
        assert weight.item() == pytest.approx(151 / 22)
    assert weight.item() == 8


def test_a_restored_average_goes_on_as_if_nothing_had_been() -> None:
    weights = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    parameters = [torch.nn.Parameter(torch.zeros(4)) for _ in range(2)]
    whole, first, second = (Average(parameters, 0.9) for _ in range(3))
    for step in range(9):
        for parameter, value in zip(parameters, weights[:, step], strict=True):
            parameter.data.copy_(value)
        whole.follow()
        if step == 4:
            second.restore({name: value.clone() for name, value in first.state().items()}, 4)
        (first if step < 4 else second).follow()
    assert all(torch.equal(value, second.state()[name]) for name, value in whole.state().items())
    assert not torch.equal(whole.state()["0"], parameters[0].data)


def test_weights_come_back_after_an_error() -> None:
    weight = torch.nn.Parameter(torch.full((3,), 0.1))
    average = Average([weight], 0.5)
    weight.data.add_(1)

    def fail() -> None:
        with average.applied():
            assert torch.equal(weight.data, torch.full((3,), 0.1))
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert torch.equal(weight.data, torch.full((3,), 0.1) + 1)
