"""What a pipeline folder holds: its parts, and the files that are read of each."""

import re
from pathlib import Path
from typing import Any

from ddspo.backbones._hub import FILES

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that neither read a prompt nor predict nor decode."""

WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:\.([\w-]+?))?(?:-\d+-of-\d+)?(?:\.([\w-]+?))?\.safetensors")
"""Names of files of weights, all of them or one of several, with a variant before or after the numbers."""


def parts_of(index: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Library and class of each part that is there and is used, by its name in the pipeline."""
    entries = {name: entry for name, entry in index.items() if isinstance(entry, list) and name not in UNUSED}
    return {name: (str(entry[0]), str(entry[1])) for name, entry in entries.items() if len(entry) == 2 and all(entry)}


def weights_of(part: Path, variant: str | None) -> list[Path]:
    """The files of weights that a part is loaded from: those of a variant, or else those without one."""
    found: dict[str | None, list[Path]] = {}
    for path in sorted(part.glob("*.safetensors")):
        name = WEIGHTS.fullmatch(path.name)
        if name:
            found.setdefault(name[1] or name[2], []).append(path)
    return found.get(variant) or found.get(None, [])


def files_of(folder: Path, index: dict[str, Any], variant: str | None) -> list[Path]:
    """Every file of a folder that loading reads."""
    found = [folder / "model_index.json"]
    for name in parts_of(index):
        part = folder / name
        found += [path for kind in FILES for path in part.glob(kind) if path.is_file()] + weights_of(part, variant)
    return found
