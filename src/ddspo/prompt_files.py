"""Reads prompt files: one prompt a line, or JSONL with `prompt` and whatever else a metric needs."""

import re
from pathlib import Path

from ddspo.errors import InputError
from ddspo.run_folder import Row, read_rows

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def read_prompts(path: Path, name: str) -> list[Row]:
    """Rows with at least `id` and `prompt`, each unique; rows without an id are numbered.

    Args:
        path: A .jsonl file, or any other text file with one prompt a line.
        name: The recipe key that the path came from, for messages.

    Raises:
        InputError: The file is missing, empty, or holds an empty prompt, a bad id, or one id twice.
    """
    if not path.is_file():
        raise InputError(f"{name}: no file {path}: check the path (relative ones start where you run the command)")
    rows = read_rows(path) if path.suffix == ".jsonl" else _lines(path)
    if not rows:
        raise InputError(f"{name}: {path} holds no prompt: write one a line")
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{name}: {path}:{number}"
        row.setdefault("id", f"p{number:06d}")
        _check(row, where)
        if row["id"] in seen:
            raise InputError(f"{where}: id {row['id']!r} is also that of line {seen[row['id']]}: make ids unique")
        seen[row["id"]] = number
    return rows


def _lines(path: Path) -> list[Row]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from None
    return [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]


def _check(row: Row, where: str) -> None:
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"{where}: no prompt: give a non-empty text under `prompt`")
    if not isinstance(row["id"], str) or not _ID.fullmatch(row["id"]):
        raise InputError(
            f"{where}: id {row['id']!r}: use up to 64 letters, digits, '_', '-' and '.', not starting with '.' or '-'"
        )
