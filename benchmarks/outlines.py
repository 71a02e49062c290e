"""Real models without their weights: `architectures/*.json` as diffusers folders that `--cost` and benchmarks read.

    python benchmarks/outlines.py sdxl /tmp/sdxl
    ddspo show recipes/paper/sdxl-training-free.yaml model.path=/tmp/sdxl --cost

The configurations are those that the models were published with. Tokenizers are the tiny ones of the tests, padded to
the length of the real ones: they give conditions of the right shape, and no meaningful ones.
"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers.pipelines.pipeline_loading_utils import _fetch_class_library_tuple

from ddspo import components
from ddspo.backbones._readers import tokenizer_of
from ddspo.backbones.base import Backbone

FOLDER = Path(__file__).parent / "architectures"


def names() -> list[str]:
    """All architectures."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """Title, backbone, published parameters of the denoiser, lengths of the tokenizers, and parts."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def write(name: str, folder: Path) -> Path:
    """A diffusers folder without weights."""
    given = read(name)
    tiny = components.find(Backbone, given["backbone"]).tiny().pipeline
    index: dict[str, Any] = {"_class_name": type(tiny).__name__, "_diffusers_version": diffusers.__version__}
    index |= {part: [None, None] for part, value in tiny.components.items() if value is None}
    for part, spec in given["parts"].items():
        library, kind = spec["_class"].split(".")
        index[part] = [library, kind]
        _save(library, kind, {key: value for key, value in spec.items() if key != "_class"}, folder / part)
    for part, length in given["tokenizer_lengths"].items():
        tokenizer = getattr(tiny, part)
        tokenizer_of(tokenizer).model_max_length = length
        tokenizer.save_pretrained(folder / part)
        index[part] = list(_fetch_class_library_tuple(tokenizer))
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
    return folder


def _save(library: str, kind: str, config: dict[str, Any], folder: Path) -> None:
    if library == "transformers":
        transformers.AutoConfig.for_model(config.pop("model_type"), **config).save_pretrained(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = "scheduler_config.json" if kind.endswith("Scheduler") else "config.json"
    (folder / name).write_text(json.dumps({"_class_name": kind} | config, indent=1))


if __name__ == "__main__":
    print(write(sys.argv[1], Path(sys.argv[2])))
