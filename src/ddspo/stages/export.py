"""aligned/ -> one file or folder in the format of some tool."""

from pathlib import Path

from ddspo.errors import InputError
from ddspo.exports.base import Aligned, Export
from ddspo.files import replace_atomically, tidy_beside


def export(aligned: Aligned, how: Export, out: Path, card: str) -> None:
    """Write `out`, whole or not at all.

    Args:
        aligned: What was trained.
        how: The format.
        out: File or folder to write.
        card: README.md of a folder.

    Raises:
        InputError: The result has no such format, or something is at `out` already.
    """
    how.check(aligned)
    if out.suffix != how.suffix and ".safetensors" in (out.suffix, how.suffix):
        raise InputError(f"{out}: this format is {f'one {how.suffix} file' if how.suffix else 'a folder'}: name it so")
    if out.exists():
        raise InputError(f"{out}: is there already: remove it or give another --out")
    tidy_beside(out)
    replace_atomically(out, lambda partial: _write(aligned, how, card, partial))


def _write(aligned: Aligned, how: Export, card: str, partial: Path) -> None:
    how.write(aligned, partial)
    if not how.suffix:
        (partial / "README.md").write_text(card, encoding="utf-8")
