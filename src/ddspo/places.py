"""What a path of a recipe means: something on this machine, a part of this package, or a name elsewhere."""

import os
from pathlib import Path

from ddspo.errors import InputError, quoted

PACKAGE = "package://"
ROOT = Path(__file__).parent


def cache() -> Path:
    """The folder of what can be fetched or computed again: `$XDG_CACHE_HOME/ddspo`, or `~/.cache/ddspo`.

    Raises:
        RuntimeError: The user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddspo"


def local(path: str) -> Path | None:
    """The folder or file that a path means, or None if it can only be a hub id (NAME/NAME, nothing of it on disk).

    Raises:
        InputError: No path can be written so, or it leaves this package, or it must not be looked at.
    """
    if "\0" in path:
        raise InputError(f"{quoted(path)}: a path holds no NUL character: write it anew")
    if path.startswith(PACKAGE):
        return _inside(path)
    try:
        folder = Path(path).expanduser()
        hub_like = path.count("/") == 1 and not path.startswith((".", "/", "~"))
        return None if hub_like and not folder.exists() else folder
    except RuntimeError:
        raise InputError(f"{quoted(path)}: nobody of that name has a home here: give the whole path") from None
    except OSError as error:
        raise InputError(f"{quoted(path)}: {error.strerror}: give another path") from None


def _inside(path: str) -> Path:
    """A file or folder of this package, found beside this file: nothing is imported to learn where it is."""
    package, _, rest = path.removeprefix(PACKAGE).partition("/")
    (first, *names), steps = package.split("."), rest.split("/")
    own = first == ROOT.name and all(name.isidentifier() for name in names)
    folder = ROOT.joinpath(*names)
    if not own or ".." in steps or not (folder / "__init__.py").is_file():
        raise InputError(
            f"{quoted(path)}: {PACKAGE} names a place inside ddspo alone, as {PACKAGE}ddspo.scenes/noise: "
            "give the path of a folder or file"
        )
    return folder.joinpath(*(step for step in steps if step not in ("", ".")))
