"""What a path of a recipe means: something on this machine, a part of this package, or a name elsewhere."""

from importlib import resources
from pathlib import Path

PACKAGE = "package://"


def local(path: str) -> Path | None:
    """The folder or file that a path means, or None if it can only be a hub id (NAME/NAME, nothing of it on disk)."""
    if path.startswith(PACKAGE):
        package, _, rest = path.removeprefix(PACKAGE).partition("/")
        return Path(str(resources.files(package))) / rest
    folder = Path(path).expanduser()
    hub_like = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    return None if hub_like and not folder.exists() else folder
