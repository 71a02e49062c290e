"""Files of public addresses: fetched once, checked against their digest, and kept in the user's cache."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import httpx2

from ddspo.errors import InputError
from ddspo.files import replacing
from ddspo.places import cache

SECONDS = 30
"""How long an address may be silent."""


@dataclass(frozen=True)
class Download:
    """A file of a public address.

    Attributes:
        sha256: How the digest of what it must hold begins.
        largest: Bytes that it may have: an address that sends more is not what it was.
        git: Whether the digest is the one that git gives the file, a SHA-1, in place of SHA-256.
    """

    url: str
    sha256: str
    largest: int
    git: bool = False

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def is_here(self) -> bool:
        """Whether it was fetched before."""
        return self._place.is_file()

    def path(self) -> Path:
        """Where it is, fetched if need be.

        Raises:
            InputError: The address does not answer, or sends another file.
        """
        if not self.is_here:
            with replacing(self._place) as partial:
                self._fetch(partial)
        return self._place

    def check(self) -> None:
        """Find out whether it is here or its address answers, without fetching it.

        Raises:
            InputError: Neither.
        """
        if not self.is_here:
            try:
                httpx2.head(self.url, follow_redirects=True, timeout=SECONDS).raise_for_status()
            except httpx2.HTTPError as error:
                raise self._unreachable(error) from None

    @property
    def _place(self) -> Path:
        return cache() / "downloads" / self.sha256[:16] / self.name

    def _fetch(self, partial: Path) -> None:
        digest, size = hashlib.sha256(), 0
        try:
            with (
                httpx2.stream("GET", self.url, follow_redirects=True, timeout=SECONDS) as answer,
                partial.open("wb") as file,
            ):
                answer.raise_for_status()
                for part in answer.iter_bytes():
                    size += len(part)
                    if size > self.largest:
                        raise InputError(f"{self.url}: sends over {self.largest:,} bytes: it is no longer what it was")
                    digest.update(part)
                    file.write(part)
        except (httpx2.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        found = _git_digest(partial, size) if self.git else digest.hexdigest()
        if not found.startswith(self.sha256):
            raise InputError(f"{self.url}: sends another file than was published (digest {found[:16]})")

    def _unreachable(self, error: Exception) -> InputError:
        reason = str(error).strip() or type(error).__name__
        return InputError(f"{self.url}: not fetched ({reason.splitlines()[0][:160]}): check the network")


def _git_digest(path: Path, size: int) -> str:
    """By which git names what a file holds."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()
