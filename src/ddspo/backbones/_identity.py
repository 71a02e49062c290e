"""Which model a recipe means: what its files hold, whatever the folder or the branch is called."""

from ddspo.backbones._folder import files_of
from ddspo.backbones._model import Model, look_up
from ddspo.digests import LENGTH, files_identity


def identity(model: Model) -> str:
    """A short digest of the files that loading reads; of a hub id, the commit, so that no weights are needed for it.

    Two folders with the same files have the same one. Large files are read once: ddspo.digests remembers them.

    Raises:
        InputError: The model does not exist, or cannot be reached or read.
    """
    found = look_up(model)
    if found.commit:
        return found.commit[:LENGTH]
    return files_identity(found.folder, files_of(found, model.variant))
