"""What stops a run, by hand: each guard on rows of a log, with the thresholds at their defaults."""

import dataclasses
import math

import pytest

from ddspo.training.guards import WINDOW, Guards, best, fault

GUARDS = Guards()
OFF = Guards(start=math.inf, loss=math.inf, displacement=math.inf, score_drop=math.inf)


def rows(*losses: float, **metrics: float) -> list[dict[str, float]]:
    """A log of these losses, otherwise healthy; `metrics` hold for every row."""
    healthy = {"u_mean": 0.0, "u_std": 0.0, "lose_displacement": 0.01, "gap": 0.01, "grad_norm": 1.0}
    return [healthy | metrics | {"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]


def scored(*scores: float) -> list[dict[str, float]]:
    return [row | {"score": score} for row, score in zip(rows(*[0.5] * len(scores)), scores, strict=True)]


def test_a_healthy_run_goes_on() -> None:
    for count in range(1, 60):
        assert fault(GUARDS, rows(*[0.69 - 0.01 * step for step in range(count)])) is None


@pytest.mark.parametrize("name", ["loss", "grad_norm", "u_mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stops_even_with_all_guards_off(name: str, value: float) -> None:
    log = rows(0.7, 0.6)
    log[-1][name] = value
    found = fault(OFF, log)
    assert found is not None
    assert found.what == f"{name} is {value}"
    assert found.sudden


def test_a_margin_at_the_start_stops_only_there() -> None:
    """u_mean 0.3 and u_std 0.4 make a root mean square of 0.5, which passes; 0.31 and 0.4 make 0.506."""
    assert fault(GUARDS, rows(0.7, u_mean=0.3, u_std=0.4)) is None
    found = fault(GUARDS, rows(0.7, u_mean=0.31, u_std=0.4))
    assert found is not None
    assert "already differ, |u| = 0.506" in found.what
    assert fault(GUARDS, rows(0.7, 0.7, u_mean=5.0)) is None
    assert fault(GUARDS, [{"step": 1, "loss": 1.0}]) is None


def test_a_spike_is_measured_from_the_start_or_the_median() -> None:
    """Five times the first loss 0.7 is 3.5, however low the median has become; after a rise to 1, it is five."""
    low = [0.7, *[0.01] * 30]
    assert fault(GUARDS, rows(*low, 3.4)) is None
    found = fault(GUARDS, rows(*low, 3.6))
    assert found is not None
    assert found.what == "the loss jumped to 3.6 from 0.7"
    high = [0.7, *[1.0] * WINDOW]
    assert fault(GUARDS, rows(*high, 4.9)) is None
    assert fault(GUARDS, rows(*high, 5.1)) is not None
    assert fault(OFF, rows(*high, 1e9)) is None


def test_a_plain_denoising_loss_may_vary() -> None:
    """0.05, 0.4, 0.05 ... is what small batches give; five times the largest of 20 is a fault.

    5 x 0.4 = 2, and only from the 21st update on.
    """
    usual = [{"step": step, "loss": 0.4 if step % 2 == 0 else 0.05} for step in range(1, 21)]
    for length in range(1, 21):
        assert fault(GUARDS, usual[:length], steady=False) is None
    assert fault(GUARDS, [*usual[:5], {"step": 6, "loss": 9.0}], steady=False) is None
    assert fault(GUARDS, [*usual, {"step": 21, "loss": 1.99}], steady=False) is None
    found = fault(GUARDS, [*usual, {"step": 21, "loss": 2.01}], steady=False)
    assert found is not None
    assert found.what == "the loss jumped to 2.01 from 0.4"


def test_displacement_is_a_median_of_ratios() -> None:
    """Nine of twenty rows at 100 gaps leave the median at 1; eleven take it to 100."""
    log = rows(*[0.5] * WINDOW)
    for row in log[-9:]:
        row["lose_displacement"] = 1.0
    assert fault(GUARDS, log) is None
    for row in log[-11:]:
        row["lose_displacement"] = 1.0
    found = fault(GUARDS, log)
    assert found is not None
    assert "100 guidance gaps" in found.what
    assert not found.sudden
    assert fault(OFF, log) is None
    assert fault(GUARDS, rows(0.5, gap=0.0, lose_displacement=9.0)) is None


def test_a_score_may_be_low_for_a_while() -> None:
    """Best 0.6, drop 0.1, patience 3: three in a row below 0.5 stop, two or an interrupted row do not."""
    assert fault(GUARDS, scored(0.6, 0.1, 0.1)) is None
    assert fault(GUARDS, scored(0.5, 0.6, 0.4, 0.4)) is None
    assert fault(GUARDS, scored(0.5, 0.6, 0.4, 0.51, 0.4, 0.4)) is None
    found = fault(GUARDS, scored(0.5, 0.6, 0.4, 0.49, 0.45))
    assert found is not None
    assert found.what == "the validation score fell from 0.600 to 0.450"
    assert fault(OFF, scored(0.5, 0.6, 0.4, 0.49, 0.45)) is None
    assert fault(GUARDS, [*scored(0.6, 0.1, 0.1, 0.1), *rows(0.5)]) is None


def test_best_is_the_first_of_equals() -> None:
    assert best(rows(0.5)) is None
    assert best(scored(0.1, 0.7, 0.7, 0.6)) == 2


def test_thresholds_say_what_they_are_and_reject_nonsense() -> None:
    assert all("Doc" in str(field.type) for field in dataclasses.fields(Guards))
