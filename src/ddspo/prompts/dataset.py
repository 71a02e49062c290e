"""Reads a dataset of the hub, or a folder laid out as one, through `datasets`: streamed, and no code of it is run."""

import re

import pyarrow as pa

from ddspo.errors import InputError
from ddspo.places import local
from ddspo.prompts.files import READERS, Columns, Rows, has_columns, present, reason, suffix

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_dataset(path: str, split: str | None) -> bool:
    """Whether a source is a dataset: it names a split, or its path can only be a hub id, and not a missing file."""
    hub_like = _HUB_ID.fullmatch(path) and suffix(path) not in READERS.keys() - {""}
    return split is not None or (bool(hub_like) and local(path) is None)


def read_dataset(path: str, config: str | None, split: str, revision: str | None, columns: Columns) -> Rows:
    """The rows of one split.

    Raises:
        InputError: There is no such dataset, split or column, it would run code of its own, or it cannot be reached.
    """
    from datasets import load_dataset

    name = f"{path}[{split}]"
    try:
        data = load_dataset(path, config, split=split, revision=revision, streaming=True)
        found = data.column_names or list(next(iter(data.decode(False)), {}))
        has_columns(name, columns, found)
        chosen = found if columns.read is None else [each for each in found if each in columns.read]
        for number, row in enumerate(data.select_columns(chosen).decode(False), start=1):
            yield f"{name}: row {number}", present(row)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, TypeError, pa.ArrowException) as error:
        raise InputError(
            f"prompts: {name}: {reason(error)}: give files, or OWNER/NAME of the hub with its config and split"
        ) from None
