"""Files that judges are made of: where they are published, under which licence, and their place on this machine."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from ddspo.digests import LENGTH, file_identity
from ddspo.downloads import Download
from ddspo.errors import InputError
from ddspo.hub import FILES, Snapshot, hub_error, snapshot
from ddspo.places import local


@dataclass(frozen=True)
class Weights(ABC):
    """What a judge loads.

    Attributes:
        size: Bytes that are downloaded, as published.
        licence: As the publisher names it.
        commercial: Whether the licence allows commercial use.
    """

    size: float
    licence: str
    commercial: bool

    @property
    @abstractmethod
    def name(self) -> str:
        """What a person would look for."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Of what they hold, whatever the folder or branch is called.

        Raises:
            InputError: There is no such model, or it cannot be reached.
        """

    @property
    @abstractmethod
    def is_here(self) -> bool:
        """Whether nothing would be downloaded."""

    @abstractmethod
    def check(self) -> None:
        """Find out whether they are here or can be downloaded, without downloading them.

        Raises:
            InputError: Neither.
        """

    @abstractmethod
    def path(self) -> Path:
        """Where they are on this machine, downloaded if need be.

        Raises:
            InputError: There are none, or nobody gives them.
        """

    def terms(self) -> str:
        """Their licence in words."""
        return self.licence if self.commercial else f"{self.licence}: no commercial use"

    def __str__(self) -> str:
        return f"{self.name} ({self.size / 1e9:.2g} GB, {self.terms()})"


@dataclass(frozen=True)
class Hub(Weights):
    """A folder of this machine, or a model of the hub; `path()` is a folder.

    Attributes:
        place: Folder or hub id.
        revision: Branch, tag or commit of the hub.
        files: Patterns of the weights' files; configurations and tokenizers come with them.
        index: A file that such a model has.
    """

    place: str
    revision: str | None = None
    files: tuple[str, ...] = ("*.safetensors",)
    index: str = "config.json"

    @classmethod
    def of_file(cls, name: str, size: float, licence: str, place: str, revision: str | None) -> "Hub":
        """One published file, and no model beside it; commercial use is allowed."""
        return cls(size, licence, True, place, revision, files=(name,), index=name)

    @property
    def name(self) -> str:
        """Folder or hub id."""
        return self.place

    @property
    def identity(self) -> str:
        """A digest of the folder's files, or the commit."""
        folder = local(self.place)
        return file_identity(folder) if folder else self._snapshot().commit[:LENGTH]

    @property
    def is_here(self) -> bool:
        """Whether files of its patterns are there."""
        return bool(local(self.place)) or self._has_files(self._snapshot().folder)

    def check(self) -> None:
        """A folder is there, or the hub answers or has answered for all files."""
        found = None if self._folder() else self._snapshot()
        if found and not found.online:
            self._whole(found)

    def path(self) -> Path:
        """The folder of its files."""
        folder = self._folder()
        if folder:
            return folder
        found = self._snapshot()
        if found.online:
            try:
                snapshot_download(self.place, revision=found.commit, allow_patterns=[*FILES, *self.files])
            except Exception as error:  # the hub's client raises a dozen types
                raise hub_error(self.place, error) from None
        return self._whole(found)

    def _folder(self) -> Path | None:
        """The folder that is named, where it is no hub id."""
        folder = local(self.place)
        if folder and not folder.is_dir():
            raise InputError(f"{self.place}: no such folder here: give one, or a hub id")
        return folder

    def _whole(self, found: Snapshot) -> Path:
        """The folder of a snapshot, if all files are there."""
        if not self._has_files(found.folder):
            raise InputError(
                f"{self.place}: {', '.join(self.files)}: not here, and the hub does not give it: try later"
            )
        return found.folder

    def _snapshot(self) -> Snapshot:
        return snapshot(self.place, self.revision, "weights", self.index)

    def _has_files(self, folder: Path) -> bool:
        return all(any(folder.glob(pattern)) for pattern in self.files)


@dataclass(frozen=True)
class Web(Weights):
    """One file of a public address; `path()` is a file."""

    download: Download

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.download.name

    @property
    def identity(self) -> str:
        """Of its checksum."""
        return self.download.sha256[:LENGTH]

    @property
    def is_here(self) -> bool:
        """Whether it was downloaded."""
        return self.download.is_here

    def check(self) -> None:
        """It was downloaded, or its address answers."""
        self.download.check()

    def path(self) -> Path:
        """The file."""
        return self.download.path()
