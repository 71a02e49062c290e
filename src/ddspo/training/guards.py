"""Guards: they read the log of a run and say when it should stop, before it wastes time or spoils its weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt
from pydantic import AllowInfNan
from typing_extensions import Doc

WINDOW = 20
"""Updates over which a median runs."""

Numbers = Mapping[str, float]
"""One row of the log."""


@dataclass(frozen=True)
class Guards:
    """When a training run is stopped. What is not finite always stops it; .inf switches any other guard off."""

    start: Annotated[
        float,
        Gt(0),
        AllowInfNan(True),
        Doc("largest root mean square of u in the very first update, where policy and reference are one"),
    ] = 0.5
    loss: Annotated[
        float,
        Gt(1),
        AllowInfNan(True),
        Doc("largest loss, in times the first one or the median of the last 20; in pretraining, the largest of those"),
    ] = 5.0
    displacement: Annotated[
        float,
        Gt(0),
        AllowInfNan(True),
        Doc("largest |d_lose|^2 in times the gap |a_lose|^2, as a median of the last 20 updates"),
    ] = 50.0
    score_drop: Annotated[
        float, Ge(0), AllowInfNan(True), Doc("how far a validation score may lie below the best so far")
    ] = 0.1
    score_patience: Annotated[int, Gt(0), Doc("validations in a row below that which stop the run")] = 3


class Fault(NamedTuple):
    """What happened and what to try, in words, and whether it came from the weights that the last update left."""

    what: str
    mend: str
    sudden: bool = True


def fault(guards: Guards, rows: Sequence[Numbers], *, steady: bool = True) -> Fault | None:
    """What is wrong with the newest row of a log, or None.

    Args:
        guards: The thresholds.
        rows: All rows of the run, the newest last; metrics that a row does not have are not judged.
        steady: Whether a loss starts at one value whatever the batch, as that of a preference does.
    """
    loss = _loss(guards, rows, steady=steady)
    checks = (_not_finite(rows), _start(guards, rows), loss, _far(guards, rows), _score(guards, rows))
    return next((found for found in checks if found), None)


def best(rows: Sequence[Numbers]) -> int | None:
    """The update of the highest validation score, of equal ones the first; None where nothing was scored."""
    scored = [row for row in rows if "score" in row]
    return int(max(scored, key=lambda row: (row["score"], -row["step"]))["step"]) if scored else None


def _not_finite(rows: Sequence[Numbers]) -> Fault | None:
    bad = [f"{name} is {value}" for name, value in rows[-1].items() if not math.isfinite(value)]
    return Fault(bad[0], "lower the learning rate or beta, or compute in a higher precision") if bad else None


def _start(guards: Guards, rows: Sequence[Numbers]) -> Fault | None:
    row = rows[0]
    if len(rows) > 1 or row["step"] != 1 or "u_mean" not in row:
        return None
    size = math.hypot(row["u_mean"], row["u_std"])
    if size <= guards.start:
        return None
    return Fault(
        f"policy and reference already differ, |u| = {size:.3g}, where u should be 0",
        "compute in a higher precision, or lower beta",
    )


def _loss(guards: Guards, rows: Sequence[Numbers], *, steady: bool) -> Fault | None:
    """A preference loss starts at log 2 times omega; a plain denoising loss varies with the times drawn.

    So the latter is judged once there are enough of them, against the largest and not the median.
    """
    losses = [row["loss"] for row in rows]
    before = losses[-WINDOW - 1 : -1]
    largest = max(before) if len(before) == WINDOW else math.inf
    usual = max(losses[0], median(before or losses)) if steady else largest
    if usual <= 0 or losses[-1] <= guards.loss * usual:
        return None
    return Fault(f"the loss jumped to {losses[-1]:.4g} from {usual:.4g}", "lower the learning rate or raise beta")


def _far(guards: Guards, rows: Sequence[Numbers]) -> Fault | None:
    recent = [row for row in rows[-WINDOW:] if row.get("gap", 0) > 0]
    ratio = median([row["lose_displacement"] / row["gap"] for row in recent] or [0])
    if ratio <= guards.displacement:
        return None
    return Fault(
        f"the policy is {ratio:.3g} guidance gaps from its reference (|d|^2 in units of the gap)",
        "lower the learning rate, train for fewer updates or raise beta",
        sudden=False,
    )


def _score(guards: Guards, rows: Sequence[Numbers]) -> Fault | None:
    scores = [row["score"] for row in rows if "score" in row]
    if "score" not in rows[-1] or len(scores) <= guards.score_patience:
        return None
    top = max(scores[: -guards.score_patience])
    if max(scores[-guards.score_patience :]) >= top - guards.score_drop:
        return None
    return Fault(
        f"the validation score fell from {top:.3f} to {scores[-1]:.3f}",
        "take the best checkpoint, train for fewer updates, or lower the learning rate",
        sudden=False,
    )
