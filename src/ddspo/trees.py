"""Trees of plain data: mappings, lists and scalars, as a YAML file of anyone's gives them."""

from pathlib import Path
from typing import Any

import yaml

from ddspo.errors import InputError, shortened

LONGEST, MOST, DEEPEST = 2**16, 10_000, 20
"""Bytes of a recipe's file, values in it, and how deep they may be nested: far more than any recipe needs."""
NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises on a text that is no YAML: its own errors, and whatever reading a value of it raised."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a file.

    Raises:
        InputError: The file is missing, cannot be read, is too long, or no YAML mapping.
    """
    try:
        if not path.is_file():
            raise InputError(f"no recipe {path}: check the path")
        with path.open("rb") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise InputError(f"{path}: no recipe: it is longer than {LONGEST >> 10} KiB")
        tree = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"recipe {path}: cannot be read ({error.strerror}): check the path") from None
    except NO_YAML as error:
        raise InputError(f"{path}: no YAML: {shortened(' '.join(str(error).split()), 300)}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: no recipe: write `key: value` lines")
    return tree


def is_bounded(tree: Any) -> bool:
    """Whether few values are there once every alias is written out: a few lines can mean billions."""
    left, unseen = MOST, [(tree, 0)]
    while unseen:
        value, depth = unseen.pop()
        left -= 1
        if left < 0 or depth > DEEPEST:
            return False
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        unseen += ((each, depth + 1) for each in parts)
    return True
