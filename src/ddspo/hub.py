"""Models on the hub: which commit a name means, and the folder that its files are kept in."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ddspo.errors import InputError

SECONDS = 5
"""How long the hub may take to answer before only what is kept of it here counts."""

FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
"""What a model is without its weights: configurations and tokenizers."""


class Snapshot(NamedTuple):
    """One commit of a model: the folder of its files, in the hub's own cache, and whether the hub answers."""

    folder: Path
    online: bool

    @property
    def commit(self) -> str:
        """Its hash, which the cache names the folder by."""
        return self.folder.name


@cache
def snapshot(name: str, revision: str | None, where: str = "model.path", index: str = "model_index.json") -> Snapshot:
    """The commit that a branch, a tag or the main branch means: the same to a process as long as it lives.

    The hub is asked once, without trying again; if it does not answer, the commit that was fetched last stands.

    Args:
        name: Of the model on the hub.
        revision: Branch, tag or commit.
        where: What gives the name, for messages.
        index: A file that such a model has.

    Raises:
        InputError: There is none, or the hub does not answer and nothing of it is kept here.
    """
    kept = _kept(name, revision, index)
    if kept and kept.name == revision:  # a commit never moves
        return Snapshot(kept, online=True)
    try:
        HfApi().model_info(name, revision=revision, timeout=SECONDS)
        folder = snapshot_download(name, revision=revision, allow_patterns=FILES, etag_timeout=SECONDS)
        return Snapshot(Path(folder), online=True)
    except RevisionNotFoundError:
        raise InputError(f"{where} {name}: it has no branch, tag or commit {revision}") from None
    except Exception as error:  # the hub's client raises a dozen types, all of which mean the same to the user
        if kept:
            return Snapshot(kept, online=False)
        raise hub_error(f"{where} {name}", error) from None


def fetched(name: str, revision: str | None, file: str) -> Path | None:
    """One more file of a model, or None where there is no such file or the hub does not answer."""
    found = snapshot(name, revision)
    path = found.folder / file
    if path.is_file() or not found.online:
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name, file, revision=found.commit, etag_timeout=SECONDS))
    except (HfHubHTTPError, OSError, OfflineModeIsEnabled):
        return None


def fetched_parts(name: str, commit: str, parts: Iterable[str]) -> None:
    """Fetch the weights of some parts of a model, and of no other, into the folder of its commit.

    Raises:
        InputError: The hub does not give them.
    """
    wanted = [f"{part}/*.safetensors*" for part in parts]
    others = ["*.fp16*", "*.bf16*", "*.non_ema*"]
    try:
        snapshot_download(name, revision=commit, allow_patterns=wanted, ignore_patterns=others, etag_timeout=SECONDS)
    except Exception as error:  # as in `snapshot`
        raise hub_error(name, error) from None


def hub_error(where: str, error: Exception) -> InputError:
    """What the hub's client raised, as one line for the user."""
    if isinstance(error, GatedRepoError):
        return InputError(f"{where}: its owner asks for consent: give it on the model's page, then `hf auth login`")
    if isinstance(error, RepositoryNotFoundError):
        return InputError(f"{where}: neither here nor on the hub: check the name; if it is private, `hf auth login`")
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(
        f"{where}: no such folder here, and the hub did not answer for it ({reason[:160]}): "
        "check the name and the network, or give a local folder"
    )


def _kept(name: str, revision: str | None, index: str) -> Path | None:
    """The folder of the commit that was fetched last, if there is one."""
    try:
        path = try_to_load_from_cache(name, index, revision=revision)
    except ValueError:  # not even a name: the hub says so in its own words
        return None
    return Path(path).parent if isinstance(path, str) else None
