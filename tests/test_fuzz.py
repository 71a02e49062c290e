"""Nonsense at every option of a recipe: refused in one line before anything is made, or a value like any other."""

import dataclasses
import json
import math
import shutil
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddspo import components
from ddspo.components import KINDS, find, names
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.metrics.base import Measure, Metric
from ddspo.objectives._modifier import Modifier
from ddspo.recipe import Recipe, dump, load
from ddspo.workflow import Workflow

WRONG: tuple[Any, ...] = (math.inf, math.nan, 0, -1, 1e30, "", [], {}, None, True)
NONSENSE: tuple[Any, ...] = (
    *WRONG,
    *(-math.inf, 10**30, 2**31 - 1, 0.5, False, "1e-4", "\x00", "\ud800", "../..", "~nobody-at-all/x", "s3://x/y"),
    *("x" * 5000, "\u202e", [[]], [math.nan], [1e30], [""], {"a": 1}, {3: None}, {"": {"": ""}}),
)
JUDGE = {"geneval": {"detector": "scenes"}}
NEEDED: dict[str, Any] = {
    **{"source": "nowhere", "model": "nowhere/nothing", "every": 1, "format": "table"},
    **{"metrics": [JUDGE], "judge": JUDGE, "detector": "scenes", "prompts": "e.jsonl", "validation": "v.jsonl"},
}
"""Options without a default, while another one of their group is looked at."""

Tree = dict[str, Any]


class Whole(dict[str, Any]):
    """A component, which takes the place of another."""


class Option(NamedTuple):
    """Where an option is, and the recipe that has a value there."""

    place: str
    recipe: Callable[[Any], Tree]


def options(cls: Any, place: str, around: Callable[[Tree], Tree]) -> Iterator[Option]:
    """Every option of a dataclass and of all components that its options can be."""
    for field in dataclasses.fields(cls):
        kind = bare(typing.get_type_hints(cls, include_extras=True)[field.name])
        here = f"{place}.{field.name}" if place else field.name

        def put(value: Any, name: str = field.name) -> Tree:
            return around({name: value})

        yield Option(here, put)
        if kind in KINDS:
            # Of metrics, an option takes those of single images alone.
            for name in names(kind) if kind is not Metric else filter(judges_single_images, names(kind)):
                found = find(kind, name)
                if issubclass(found, Modifier) and here.endswith(".of"):
                    continue  # a modifier inside a modifier has the same options, without end

                def within(given: Tree, name: str = name, found: Any = found, put: Any = put) -> Tree:
                    return put(Whole({name: needed(found) | given}))

                yield from options(found, f"{here}.{name}", within)
        elif dataclasses.is_dataclass(kind):
            yield from options(kind, here, lambda given, kind=kind, put=put: put(needed(kind) | given))


def judges_single_images(name: str) -> bool:
    return issubclass(find(Measure, name), Metric)


def bare(annotation: Any) -> Any:
    """The group or component of an annotation, or the annotation itself."""
    if typing.get_origin(annotation) is Annotated:
        return bare(typing.get_args(annotation)[0])
    if isinstance(annotation, types.UnionType):
        kinds = [each for each in typing.get_args(annotation) if each is not types.NoneType]
        return bare(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def needed(cls: Any) -> Tree:
    fields = [each.name for each in dataclasses.fields(cls) if each.default is each.default_factory]
    return {name: NEEDED[name] for name in fields if name in NEEDED}


def merged(base: Tree, other: Tree) -> Tree:
    """`base` with what another tree says; of components the other's alone."""
    both = {key: base[key] for key in base.keys() & other.keys() if not isinstance(other[key], Whole)}
    deep = {key: merged(value, other[key]) for key, value in both.items() if all_dicts(value, other[key])}
    return base | plain(other) | deep


def all_dicts(*values: Any) -> bool:
    return all(isinstance(each, dict) for each in values)


def plain(value: Any) -> Any:
    return {key: plain(each) for key, each in value.items()} if isinstance(value, dict) else value


OPTIONS = list(options(Recipe, "", lambda given: given))
UNBOUNDED = ("guards.start", "guards.loss", "guards.displacement", "guards.score_drop")
"""Options that infinity switches off."""


@pytest.fixture(scope="module")
def base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A recipe of two updates, whose folder is far enough down for `../..` to lead nowhere else."""
    folder = tmp_path_factory.mktemp("fuzz") / "a/b"
    things = {"tag": "single_object", "include": [{"class": "square", "count": 1}]}
    for name in "pev":
        rows = [
            {"id": f"{name}{number}", "prompt": f"{name} photo of {number} squares", **things} for number in range(4)
        ]
        write_rows(folder / f"{name}.jsonl", rows)
    return {
        "name": "run",
        "model": {"path": str(tiny_folder), "resolution": 32},
        "prompts": {"path": "p.jsonl"},
        "out": str(folder / "runs"),
        "trackers": [],
        "sample": {"pairs": 4, "steps": 2, "batch": 4},
        "train": {"steps": 2, "batch": 2, "device_batch": 2},
        "validation": {"final": 1, "steps": 1},
        "evaluate": {"metrics": [JUDGE], "prompts": "e.jsonl", "validation": "v.jsonl", "scales": [1], "steps": 2},
    }


def tried(tree: Tree, base: Tree) -> bool:
    """Whether a recipe is accepted; if not, it is refused in one line, and nothing has been made."""
    out = Path(base["out"])
    shutil.rmtree(out, ignore_errors=True)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    recipe = out.parent / "r.yaml"
    recipe.write_bytes(yaml.safe_dump(tree).encode("utf-8", "surrogatepass"))
    before = sorted(out.parent.rglob("*"))
    try:
        found = load(recipe)
        Workflow.start(found)
    except InputError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message) < 1500
        assert sorted(out.parent.rglob("*")) == before
        return False
    recipe.write_text(dump(found), encoding="utf-8")
    assert load(recipe) == found
    assert all(math.isfinite(number) for place, number in numbers(found) if not place.endswith(UNBOUNDED))
    json.dumps(components.plain(found))
    return True


def numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a recipe, with where it is."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from numbers(each, f"{place}.{name}")
    elif isinstance(value, tuple | list):
        for each in value:
            yield from numbers(each, place)
    elif isinstance(value, int | float):
        yield place, value


def test_what_it_starts_from(base: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is accepted, so that what is refused below is the nonsense."""
    monkeypatch.chdir(Path(base["out"]).parent)
    assert tried(base, base)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.place)
def test_nonsense_at_one_option(option: Option, base: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(base["out"]).parent)
    accepted = [value for value in WRONG if tried(merged(base, option.recipe(value)), base)]
    assert math.nan not in accepted
    assert math.inf not in accepted or option.place.endswith(UNBOUNDED)
    assert len(accepted) < len(WRONG) / 2


@given(st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from(NONSENSE)), min_size=1, max_size=3))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_at_some_options(
    base: Tree, monkeypatch: pytest.MonkeyPatch, wrong: list[tuple[Option, Any]]
) -> None:
    monkeypatch.chdir(Path(base["out"]).parent)
    tree = base
    for option, value in wrong:
        tree = merged(tree, option.recipe(value))
    tried(tree, base)
