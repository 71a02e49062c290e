"""A million pairs through the training path: writes them, reads every one, and prints what it took as JSON.

Run by test_scale.py in a process of its own, so that the peak of its memory is its own.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from ddspo.maths.pair import Pair
from ddspo.maths.paths import RectifiedFlow
from ddspo.pairs.shards import DEGRADED, Origin
from ddspo.pairs.store import PairStore
from ddspo.pairs.writer import PairWriter, begin, finish
from ddspo.training.batches import Batches

ROWS, SHARD, BATCH, SEED = 1_000_000, 4096, 4096, 3
CPU = torch.device("cpu")
ORIGIN = Origin({"model": "none", "seed": SEED}, (2, 1, 1), DEGRADED)


class NoText:
    """Conditions of nothing: no text encoder is there."""

    def of(self, texts: list[str], device: torch.device) -> dict[str, torch.Tensor]:
        return {"length": torch.tensor([len(text) for text in texts], device=device)}


def write(folder: Path) -> int:
    """Latents of pair n: n // 1000 and n % 1000, which half precision holds exactly."""
    begin(folder)
    writer = PairWriter(folder, ORIGIN)
    for shard, first in enumerate(range(0, ROWS, SHARD)):
        numbers = range(first, min(first + SHARD, ROWS))
        rows = [
            {"id": f"p{n}", "prompt": f"a photo of {n} things", "degraded": f"{n}", "kind": "few", "seed": n}
            for n in numbers
        ]
        places = torch.tensor(numbers)
        win = torch.stack([places // 1000, places % 1000], 1).view(-1, 2, 1, 1).half()
        writer.add(shard, 0, rows, Pair(win, -win))
        writer.close(shard, 1)
    return len(finish(folder, shard + 1))


def batches(folder: Path) -> Batches:
    store = PairStore.open(folder, memory=0.01)
    return Batches(store, NoText(), BATCH, SEED, RectifiedFlow())  # type: ignore[arg-type]


def peak_bytes() -> int:
    """The most memory that was resident. getrusage would count that of the process that started this one, too."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def main(folder: Path) -> None:
    began = time.process_time()
    shards = write(folder)
    drawn = batches(folder)
    drawn.data.verify(ORIGIN.shape)
    seen, steps = np.zeros(ROWS, np.int64), ROWS // BATCH
    for step in range(steps):
        rows = drawn.rows(step)
        some = drawn.data.take([row for row, _ in rows])
        high, low = some.latents.win.view(-1, 2).float().T.numpy().astype(np.int64)
        numbers = 1000 * high + low
        assert [f"p{n}" for n in numbers] == some.ids
        assert torch.equal(some.latents.win, -some.latents.lose)
        seen[numbers] += 1
        if step % 50 == 0:
            assert torch.equal(batches(folder).view(rows[:32], CPU).x_t.win, drawn.view(rows[:32], CPU).x_t.win)
    assert seen.max() == 1
    assert seen.sum() == steps * BATCH
    spread = np.corrcoef(np.arange(steps * BATCH), [row for step in range(steps) for row, _ in drawn.rows(step)])
    found = {"shards": shards, "window": drawn.data.window, "correlation": float(spread[0, 1])}
    found |= {"peak_bytes": peak_bytes()}
    print(json.dumps(found | {"seconds": time.process_time() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
