"""Components of other packages: found by their entry points, named as this package's own, and never by a path."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ddspo import catalogue, components
from ddspo.errors import InputError
from ddspo.metrics.base import Metric
from ddspo.recipe import dump, load

SCENES = Path(__file__).parents[1] / "recipes/scenes.yaml"
BRIGHTNESS = (Path(__file__).parents[1] / "examples/new_metric.py").read_text(encoding="utf-8")
Install = Callable[[str, dict[str, str]], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with entry points of the group and a package with one metric on the path."""
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "brightness.py").write_text(BRIGHTNESS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def distribution(name: str, points: dict[str, str]) -> None:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{key} = {value}" for key, value in points.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{catalogue.GROUP}]", *lines]) + "\n")
        _forget()

    _forget()
    yield distribution
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    catalogue._added.cache_clear()
    components.find.cache_clear()
    for name in [each for each in sys.modules if each.startswith("their_package")]:
        del sys.modules[name]


def test_a_recipe_names_what_is_installed(install: Install, tmp_path: Path) -> None:
    install("theirs", {"metrics.brightness": "their_package.brightness"})
    assert "brightness" in catalogue.names("metrics")
    assert catalogue.first_line("metrics", "brightness").startswith("A metric of your own")
    recipe = load(SCENES, ["evaluate.metrics=[{geneval: {detector: scenes}}, {brightness: {dark: 9}}]"])
    assert recipe.evaluate is not None
    found = recipe.evaluate.metrics[1]
    assert (components.name_of(found), found.name) == ("brightness", "brightness")
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert load(tmp_path / "recipe.yaml") == recipe
    with pytest.raises(InputError, match=r"evaluate\.metrics\.brightness\.drak: no such key: did you mean dark"):
        load(SCENES, ["evaluate.metrics=[{brightness: {drak: 9}}]"])


@pytest.mark.parametrize("value", ["their_package.other", "their_package.brightness:Brightness", "their_package"])
def test_a_module_of_another_name_is_refused(install: Install, value: str) -> None:
    """Only where it is named: what somebody else installed wrongly is in nobody's way."""
    install("theirs", {"metrics.brightness": value})
    assert "brightness" not in catalogue.names("metrics")
    assert components.find(Metric, "geneval")
    with pytest.raises(InputError, match=r"^entry point metrics\.brightness = .* of theirs: its last part must be br"):
        components.find(Metric, "brightness")


def test_two_packages_with_one_name(install: Install) -> None:
    install("theirs", {"metrics.brightness": "their_package.brightness"})
    install("others", {"metrics.brightness": "other_package.brightness"})
    with pytest.raises(InputError, match=r"has that name as well: uninstall one of the two"):
        components.find(Metric, "brightness")


def test_this_package_s_names_stay_its_own(install: Install) -> None:
    kept = components.find(Metric, "geneval")
    install("theirs", {"metrics.geneval": "their_package.geneval"})
    assert components.find(Metric, "geneval") is kept
    assert catalogue.first_line("metrics", "geneval").startswith("GenEval")


def test_a_module_that_is_not_there(install: Install) -> None:
    install("theirs", {"metrics.gone": "their_package.gone", "metrics.lost": "no_package.lost"})
    assert catalogue.first_line("metrics", "lost") == "no_package.lost: no such module here"
    for name in ("gone", "lost"):
        with pytest.raises(InputError, match=rf"'{name}': .*\.{name} of another package: No module named"):
            components.find(Metric, name)


@pytest.mark.parametrize("name", ["their_package.brightness", "./their_package/brightness.py", "../brightness", ""])
def test_nothing_is_found_by_a_path(install: Install, name: str) -> None:
    install("theirs", {"metrics.brightness": "their_package.brightness"})
    with pytest.raises(InputError, match="in metrics"):
        components.find(Metric, name)
