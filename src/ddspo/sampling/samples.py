"""A batch of pairs: two samples of each from one initial noise, or the best and worst of several by a judge."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddspo import randomness
from ddspo.backbones._visited import Visited, visiting
from ddspo.backbones.base import Backbone
from ddspo.maths.pair import Pair
from ddspo.metrics.base import Judge, Score
from ddspo.pairs.data import States
from ddspo.rows import Row
from ddspo.sampling.options import Sampling

PROMPTS = {"win": "prompt", "lose": "degraded"}
"""What each side is sampled from."""


class Made(NamedTuple):
    """Rows, their latents, and the states that were visited on the way to these, if any are kept."""

    rows: Sequence[Row]
    latents: Pair[Tensor]
    states: States | None


def generate(backbone: Backbone, rows: Sequence[Row], settings: Sampling, sides: Sequence[str] = Pair._fields) -> Made:
    """The samples of each pair in one batch, from the same initial noise; `settings.batch` pairs at once.

    Of one side alone, that stands for both.
    """
    batches = [rows[first : first + settings.batch] for first in range(0, len(rows), settings.batch)]
    made = [_batch(backbone, batch, settings, sides) for batch in batches]
    latents = Pair(*(torch.cat(side) for side in zip(*(part.latents for part in made), strict=True)))
    states = States.cat([part.states for part in made if part.states])
    return Made(rows, latents, states)


def _batch(backbone: Backbone, rows: Sequence[Row], settings: Sampling, sides: Sequence[str]) -> Made:
    prompts = [row[PROMPTS[side]] for side in sides for row in rows]
    seeds, calls = [row["seed"] for row in rows] * len(sides), calls_to_keep(backbone, rows, settings)
    latents, visited = _sample(backbone, prompts, seeds, calls.repeat(len(sides), 1), settings)
    states = States(visited.times[: len(rows)], _pair(visited.states, len(sides))) if settings.states else None
    return Made(rows, _pair(latents, len(sides)), states)


def _pair(rows: Tensor, sides: int) -> Pair[Tensor]:
    """Rows of both sides, one after the other, or of one that stands for both."""
    parts = rows.chunk(sides)
    return Pair(parts[0], parts[-1])


def label(backbone: Backbone, rows: Sequence[Row], settings: Sampling, judge: Judge) -> Made:
    """Generate and judge all candidates, as many at once as without labels, and keep the best and worst."""
    assert settings.labels
    sign = 1 if settings.labels.judge.higher_is_better else -1
    candidates = settings.labels.candidates
    tasks = [(row["item"], seed) for row in rows for seed in row["seeds"]]
    calls = calls_to_keep(backbone, rows, settings).repeat_interleave(candidates, 0)
    latents, visits, scores = [], [], []
    for first in range(0, len(tasks), 2 * settings.batch):
        items, seeds = zip(*tasks[first : first + 2 * settings.batch], strict=True)
        prompts = [item["prompt"] for item in items]
        sampled, visited = _sample(backbone, prompts, seeds, calls[first : first + len(items)], settings)
        part = sampled.cpu().half()
        scores += judge(backbone.decode(part.float()), items)
        latents.append(part)
        visits.append(visited.cpu())
    found, chosen = [], []
    for number, row in enumerate(rows):
        first = number * candidates
        mine = scores[first : first + candidates]
        ranked = best_and_worst([sign * score.value for score in mine], row["seeds"], settings.labels.pairs)
        for rank, places in enumerate(ranked):
            name = row["id"] if settings.labels.pairs == 1 else f"{row['id']}~{rank}"
            found.append({"id": name, "prompt": row["prompt"]} | _verdict(places, mine, row["seeds"]))
            chosen.append(places.map(lambda place: first + place))  # noqa: B023
    index = Pair([pair.win for pair in chosen], [pair.lose for pair in chosen])
    every, times, states = torch.cat(latents), *map(torch.cat, zip(*visits, strict=True))
    kept = States(times[index.win], index.map(lambda places: states[places])) if settings.states else None
    return Made(found, index.map(lambda places: every[places]), kept)


def calls_to_keep(backbone: Backbone, rows: Sequence[Row], settings: Sampling) -> Tensor:
    """Which of the scheduler's T calls see the K states that are kept of each pair: floor((k + u) T / K), [N, K].

    One u a pair spreads its states evenly, and makes any call as likely as any other.
    """
    calls, kept = backbone.evaluations(settings.how(backbone)[0], 1.0), settings.states
    u = randomness.uniform([row["visits"] for row in rows])
    return ((torch.arange(kept) + u[:, None]) * calls / max(kept, 1)).long()


def best_and_worst(values: Sequence[float], seeds: Sequence[int], pairs: int = 1) -> list[Pair[int]]:
    """Places of the best and the worst value, of the next best and the next worst, ..., as long as they differ.

    Ties go by the seeds, which are stable hashes.
    """
    order = sorted(range(len(values)), key=lambda place: (values[place], seeds[place]))
    found = [Pair(win, lose) for win, lose in zip(order[::-1], order, strict=True) if values[win] > values[lose]]
    return found[:pairs]


def _sample(
    backbone: Backbone, prompts: Sequence[str], seeds: Sequence[int], calls: Tensor, settings: Sampling
) -> tuple[Tensor, Visited]:
    with visiting(backbone, calls) as visited:
        return backbone.generate(prompts, seeds, *settings.how(backbone)), visited


def _verdict(places: Pair[int], scores: Sequence[Score], seeds: Sequence[int]) -> Row:
    found: Row = {}
    for side, place in places._asdict().items():
        score = scores[place]
        found |= {f"{side}_seed": seeds[place], f"{side}_score": score.value, f"{side}_note": score.note}
    return found
