"""Main memory of several judges: `python benchmarks/judges.py`; on a CPU, with random weights of the true sizes.

Each line is a process of its own that judges eight images, on Linux. What three judges need is to be what
the largest needs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from ddspo.backbones._tiny import clip_tokenizer
from ddspo.files import write_rows

VISION = {"L/14": (1024, 24, 16, 4096, 14), "H/14": (1280, 32, 16, 5120, 14)}
TEXT = {"L/14": (768, 12, 12, 3072, 768), "H/14": (1024, 24, 16, 4096, 1024)}
"""Width, layers, heads and inner width; of the image tower the patch, of the text tower the size of both's space."""
JUDGES = {"clip_score": "L/14", "pick_score": "H/14", "cmmd": "L/14"}
PLACE = {"clip_score": "place", "pick_score": "place", "cmmd": "model"}
MEASURE = """
import json, sys
from pathlib import Path
from rich.console import Console
from ddspo.verdicts import Wanted, judge
folder, metrics, options = json.loads(sys.argv[1])
folder = Path(folder)
judge(Wanted((folder,), tuple(metrics), tuple(options), folder, None, 8, False), Console(quiet=True))
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**20)
"""


def main() -> None:
    """Print peaks, in GiB: of a judge that loads nothing, of each alone, of all three."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in VISION:
            clip(name, folder / name.replace("/", ""))
        images(folder / "images")
        print("| judges | peak, GiB | above saturation's |\n|---|---|---|")
        least = peak(folder, ["saturation"])
        print(f"| saturation | {least:.2f} | |", flush=True)
        for metrics in ([name] for name in JUDGES):
            row(folder, metrics, least)
        row(folder, [*JUDGES], least)


def row(folder: Path, metrics: list[str], least: float) -> None:
    """One line of the table."""
    found = peak(folder, metrics)
    print(f"| {', '.join(metrics)} | {found:.2f} | {found - least:.2f} |", flush=True)


def peak(folder: Path, metrics: list[str]) -> float:
    """Largest resident memory of a process that judges the images, in GiB."""
    weights = {name: folder / JUDGES[name].replace("/", "") for name in metrics if name in JUDGES}
    options = [f"{name}.{PLACE[name]}={path}" for name, path in weights.items()]
    given = json.dumps([str(folder / "images"), metrics, options])
    home = tempfile.TemporaryDirectory()  # or the scores would be known
    with home:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, given],
            check=True,
            capture_output=True,
            text=True,
            env={"XDG_CACHE_HOME": home.name, "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "2"},
        )
    return float(done.stdout.splitlines()[-1])


def clip(name: str, folder: Path) -> None:
    """A CLIP of a true size with random weights, in both kinds of file."""
    shapes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    (*vision, patch), (*text, space) = VISION[name], TEXT[name]
    config = CLIPConfig(
        vision_config=dict(zip(shapes, vision, strict=True)) | {"patch_size": patch, "projection_dim": space},
        text_config=dict(zip(shapes, text, strict=True)) | {"projection_dim": space},
        projection_dim=space,
    )
    network = CLIPModel(config)
    network.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")


def images(folder: Path) -> None:
    """Eight images of noise, with prompts."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(8)]
    for name in names:
        Image.fromarray(rng.integers(256, size=(512, 512, 3), dtype=np.uint8)).save(folder / name)
    write_rows(folder / "metadata.jsonl", [{"file_name": name, "prompt": f"image {name[0]}"} for name in names])


if __name__ == "__main__":
    main()
