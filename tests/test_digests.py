"""The same content has the same identity wherever it lies; a large file is read once, and again when it changes."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from ddspo import digests
from ddspo.digests import digest_of, file_identity
from ddspo.errors import InputError


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where digests are kept, of any file that is not empty, however young."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 1)
    monkeypatch.setattr(digests, "YOUNG", -1e18)
    return tmp_path / "cache/ddspo/digests"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "some text")
    expected = hashlib.sha256(b"some text").hexdigest()
    assert digest_of(path) == expected
    assert file_identity(path) == expected[:16]
    assert file_identity(write(tmp_path / "elsewhere/b", "some text")) == expected[:16]


def test_of_a_folder(tmp_path: Path) -> None:
    """Names and contents count; its own name, time and hidden files do not."""
    folder = tmp_path / "one"
    write(folder / "a/x.png", "1")
    write(folder / "b.txt", "2")
    found = file_identity(folder)
    shutil.copytree(folder, tmp_path / "two")
    write(tmp_path / "two/.partial", "3")
    write(tmp_path / "two/.cache/y", "4")
    assert file_identity(tmp_path / "two") == found
    for change in (("a/x.png", "9"), ("a/z.png", "1")):
        write(tmp_path / "two" / change[0], change[1])
        assert file_identity(tmp_path / "two") != found
    (folder / "b.txt").rename(folder / "c.txt")
    assert file_identity(folder) != found


def test_a_large_file_is_read_once(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = write(tmp_path / "a", "some text"), []
    read = digests._read
    monkeypatch.setattr(digests, "_read", lambda path: (reads.append(path), read(path))[1])
    first = digest_of(path)
    (tmp_path / "link").symlink_to(path)
    assert digest_of(path) == digest_of(tmp_path / "link") == first
    assert len(reads) == 1
    assert len(list(notes.iterdir())) == 1
    before = path.stat()
    path.write_text("SOME text")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as after a change behind everybody's back
    assert digest_of(path) == hashlib.sha256(b"SOME text").hexdigest()
    assert len(list(notes.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "[", "[]", '{"state": null}', '{"state": [1], "sha256": "x"}'])
def test_a_damaged_note_is_no_note(text: str, tmp_path: Path, notes: Path) -> None:
    path = write(tmp_path / "a", "some text")
    first = digest_of(path)
    (note,) = notes.iterdir()
    note.write_text(text)
    assert digest_of(path) == first


def test_a_young_file_is_not_kept(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "YOUNG", 1e18)
    assert digest_of(write(tmp_path / "a", "some text")) == hashlib.sha256(b"some text").hexdigest()
    assert not notes.exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(write(tmp_path / "file", "not a folder")))
    assert digest_of(write(tmp_path / "a", "some text")) == hashlib.sha256(b"some text").hexdigest()


def test_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such file or folder"):
        file_identity(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: no ordinary file"):
        file_identity(tmp_path / "pipe")
