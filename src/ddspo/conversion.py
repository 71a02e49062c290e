"""A single-file checkpoint, or a model with LoRA files merged into it, as an ordinary diffusers folder."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ddspo.backbones import _original
from ddspo.backbones._folder import parts_of, weights_of
from ddspo.backbones._lora_files import merge
from ddspo.backbones._model import read_object
from ddspo.backbones._original import Precision as Precision
from ddspo.backbones.base import DTYPES
from ddspo.errors import InputError
from ddspo.files import remove, replacing, tidy_beside, write_json
from ddspo.hub import FILES
from ddspo.origins import Origin as Origin
from ddspo.origins import Source, networks
from ddspo.origins import is_single as is_single
from ddspo.places import local

NOTE = "origin.json"
"""File of a folder made here: from what."""

SPARE = 2**28
"""Bytes that are left free."""


def configured(origin: Origin, folder: Path) -> None:
    """Write the folder without its weights: enough to know what it will be. One that is whole is left as it is.

    Raises:
        InputError: A file is not there, damaged, or not of the model; or what lies at `folder` was not made here.
    """
    source = Source.of(origin)
    if _note(folder).get("origin") == _asked(origin):
        return
    source.check()
    with replacing(folder) as partial:
        _write_configs(source, partial)
        write_json(partial / NOTE, {"origin": _asked(origin)})


def converted(origin: Origin, folder: Path, dtype: Precision | None = None) -> None:
    """Write the whole folder, or leave it as it is where it was made of the same files before.

    Args:
        origin: What it is made from.
        folder: Where it will be.
        dtype: fp32, bf16 or fp16; None: what the file has, fp32 for a folder.

    Raises:
        InputError: As `configured`; or the disk has no room.
    """
    source = Source.of(origin)
    kept = dtype or source.header.precision
    note = {"origin": _asked(origin), "dtype": kept, "digests": source.digests()}
    if _note(folder) == note:
        return
    source.check()
    source.fetch()
    tidy_beside(folder)
    _check_room(source, folder, kept)
    with replacing(folder) as partial:
        if not source.loras:
            _write_whole(source, partial, kept)
        else:
            _write_merged(source, partial / ".before", partial, kept)
            remove(partial / ".before")
        write_json(partial / NOTE, note)


def _asked(origin: Origin) -> dict[str, Any]:
    """As a note has it: places that do not depend on where the command runs."""
    place = local(origin.place)
    return json.loads(json.dumps(dataclasses.asdict(origin))) | {
        "place": origin.place if place is None else str(place.resolve())
    }


def _note(folder: Path) -> dict[str, Any]:
    """What a folder says of its origin; empty where there is none.

    Raises:
        InputError: Something else is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return {}
    if not (folder / NOTE).is_file():
        raise InputError(f"{folder}: it is there, and was not made by `ddspo convert`: give another folder")
    return read_object(folder, NOTE, str(folder))


def _check_room(source: Source, folder: Path, dtype: Precision) -> None:
    """Whether the disk holds the folder, and with LoRAs another one for a while."""
    there = next(each for each in folder.resolve().parents if each.exists())
    needed = source.bytes(dtype) * (2 if source.file and source.loras else 1) + SPARE
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(f"{folder}: {needed / 2**30:.1f} GiB are needed, and {free / 2**30:.1f} GiB are free there")


def _write_configs(source: Source, folder: Path) -> None:
    """Everything of a folder that is no weight."""
    parts = parts_of(source.found.model_index)
    index = {key: value for key, value in source.found.model_index.items() if not isinstance(value, list)}
    index |= {key: [None, None] for key, value in source.found.model_index.items() if isinstance(value, list)}
    index |= {name: list(entry) for name, entry in parts.items()} | {"_class_name": source.found.pipeline_class}
    if "requires_safety_checker" in index:
        index["requires_safety_checker"] = False
    write_json(folder / "model_index.json", index)
    for name in parts:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file in (path for kind in FILES for path in (source.found.folder / name).glob(kind)):
            if not file.name.endswith(".index.json"):  # of weights in several files, which are not there
                shutil.copyfile(file, folder / name / file.name)
    _write_prediction(source, folder)


def _write_prediction(source: Source, folder: Path) -> None:
    """What fine-tunes of SDXL say by the mere names of two empty weights: that they predict v, and end at noise."""
    names = source.header.weights
    changes: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in names else {}
    changes |= {"rescale_betas_zero_snr": True} if "ztsnr" in names else {}
    if changes:
        scheduler = folder / "scheduler"
        write_json(
            scheduler / "scheduler_config.json",
            read_object(scheduler, "scheduler_config.json", str(folder)) | changes,
        )


def _write_whole(source: Source, folder: Path, dtype: Precision) -> None:
    """The folder of a single file, one part in memory at a time."""
    assert source.file
    _write_configs(source, folder)
    for part, network in networks(source.outline).items():
        if part in source.names:
            read = _original.read(source.file, source.names[part], DTYPES[dtype])
            named = _original.translated(source.origin.place, part, network, read)
            whole = {name: value.contiguous() for name, value in named.items()}
            save_file(whole, folder / part / _original.file_name(type(network)), metadata=_original.FORMAT)
            continue
        there = source.found.folder / part
        for file in (*weights_of(there, None), *there.glob("*.safetensors.index.json")):
            shutil.copyfile(file, folder / part / file.name)


def _write_merged(source: Source, base: Path, folder: Path, dtype: Precision) -> None:
    """The folder of a model after its LoRAs, which diffusers reads and adds."""
    model = dataclasses.replace(source.config, dtype=dtype)
    if source.file:
        _write_whole(source, base, dtype)
        model = dataclasses.replace(model, path=str(base))
    backbone = type(source.outline).load(model)
    for lora, parts in zip(source.loras, source.changed, strict=True):
        merge(backbone, lora, parts)
    backbone.save(folder)
