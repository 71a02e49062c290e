"""A path of a recipe is read, never run: nothing outside this package is imported, and what is no path is said so."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddspo.errors import InputError
from ddspo.places import ROOT, local


def test_places_inside_this_package() -> None:
    assert local("package://ddspo.scenes/noise") == ROOT / "scenes" / "noise"
    assert local("package://ddspo.scenes/data/evaluation.jsonl") == ROOT / "scenes/data/evaluation.jsonl"
    assert local("package://ddspo/scenes") == ROOT / "scenes"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "package://",
            "package://os",
            "package://nope",
            "package:///etc",
            "package://evilpkg/x",
            "package://ddspo.nope",
        ),
        *("package://ddspo.scenes/../..", "package://ddspo..scenes/noise", "package://ddspo.scenes/noise/../../.."),
        *("package://../ddspo", "package://ddspo.scenes.noise", "package://ddspoevil/x", "package://.ddspo"),
    ],
)
def test_a_package_is_this_one(path: str) -> None:
    with pytest.raises(InputError, match=r"^'package://.*' ?: package:// names a place inside ddspo alone, as"):
        local(path)


def test_the_rest_never_leaves_it() -> None:
    assert local("package://ddspo.scenes//etc/passwd") == ROOT / "scenes/etc/passwd"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-of-that-name/x", "'~nobody-of-that-name/x': nobody of that name has a home here"),
        ("a\0b", "'a.x00b': a path holds no NUL character"),
        ("a/\0", "a path holds no NUL character"),
        ("a" * 300 + "/b", "File name too long: give another path"),
    ],
)
def test_what_is_no_path(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        local(path)


def test_hub_ids_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local("somebody/some-model") is None
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody/some-model").write_text("a file of that name is meant before a hub id")
    assert local("somebody/some-model") == Path("somebody/some-model")
    assert local("./somebody/other") == Path("somebody/other")
    assert local("/a/b") == Path("/a/b")


SCRIPT = """
import sys
from ddspo.errors import InputError
from ddspo.places import local
for path in ("package://evilpkg/x", "package://evilpkg", "package://ddspo.evilpkg/x"):
    try:
        local(path)
    except InputError as error:
        print(error)
assert "evilpkg" not in sys.modules
"""


def test_nothing_of_the_working_directory_is_imported(tmp_path: Path) -> None:
    (tmp_path / "evilpkg").mkdir()
    (tmp_path / "evilpkg/__init__.py").write_text("open('was-run', 'w')")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, '')" + SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 3
    assert not (tmp_path / "was-run").exists()
