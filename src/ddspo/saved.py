"""What was written is read again, and compared with what was to be written, before it is called done."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ddspo.errors import InputError, quoted


def verify(files: Iterable[Path], written: Mapping[str, Tensor]) -> None:
    """Compare safetensors files with the tensors that they were made of, to the bit; one tensor is read at a time.

    Args:
        files: They hold all tensors, each in one of them.
        written: By name.

    Raises:
        InputError: One is missing, is another, or cannot be read.
    """
    left, files = dict(written), sorted(files)
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    if name not in left or not same(file.get_tensor(name), left.pop(name)):
                        raise _other(path, name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not read again after it was written ({error}): check the disk") from None
    if left:
        raise _other(next(iter(files), Path("no file")), next(iter(left)))


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same bits, of one type and shape; what is not finite is equal to itself."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(*(each.detach().cpu().contiguous().view(-1).view(torch.uint8) for each in (one, other)))


def _other(path: Path, name: str) -> InputError:
    return InputError(f"{path}: {quoted(name)} is not there as it was written: check the disk, and run again")
