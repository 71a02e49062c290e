"""A recipe's prompts: how they are written, when they are read, and what makes them others."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddspo.errors import InputError
from ddspo.prompts.source import Source
from ddspo.recipe import dump, load
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.workflow import Workflow

SCENES = Path(__file__).parents[2] / "recipes/scenes.yaml"
CSV = "caption,cfg\na red cube,7\nbond,7\na blue cube,2\na  red cube,8\ntwo cats,9\n"


@pytest.mark.parametrize(
    "overrides",
    [["prompts={path: p.csv, column: caption}"], ["prompts=p.csv", "prompts.column=caption"]],
)
def test_a_path_is_short_for_its_group(overrides: list[str], tmp_path: Path) -> None:
    recipe = load(SCENES, overrides)
    assert recipe.prompts == Source("p.csv", column="caption")
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert load(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompts.colum=x", "prompts.colum: no such key: did you mean column?"),
        ("prompts.limit=0", "prompts.limit: 0: input should be greater than 0"),
        ("prompts={column: x}", "prompts.path: missing"),
        ("prompts.duplicates=drop", "prompts.duplicates: 'drop': input should be 'merge' or 'keep'"),
    ],
)
def test_mistakes(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(SCENES, [override])
    assert message in str(caught.value)


def test_from_a_table_to_degraded_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of five, one cfg is below 5 and one prompt repeats; `bond` cannot be degraded and is named.

    The same recipe goes on, also from the same table elsewhere; another table or another choice is another run.
    """
    (tmp_path / "p.csv").write_text(CSV)
    chosen = ["prompts.column=caption", "prompts.where=['cfg >= 5']", f"out={tmp_path / 'runs'}"]
    Workflow.start(load(SCENES, [f"prompts={tmp_path / 'p.csv'}", *chosen])).run(("degrade",))
    run = RunFolder(tmp_path / "runs" / "scenes")
    assert [(row["id"], row["prompt"]) for row in read_rows(run.prompts)] == [
        ("p000001", "a red cube"),
        ("p000005", "two cats"),
    ]
    assert [row["prompt"] for row in read_rows(run.undegraded)] == ["bond"]
    said = capsys.readouterr().err
    assert "prompts: 5 read: 3 kept, 1 not meeting prompts.where, 1 merged with an equal one" in said
    assert "degrade: 2 of 3 prompts, without those in" in said
    (tmp_path / "q.csv").write_text(CSV)
    again = [f"prompts={tmp_path / 'q.csv'}", *chosen]
    Workflow.start(load(SCENES, again))
    with pytest.raises(InputError, match=r"stage degrade was begun with another prompts\.where"):
        Workflow.start(load(SCENES, [*again, "prompts.where=[]"]))
    (tmp_path / "q.csv").write_text(CSV + "one more,9\n")
    with pytest.raises(InputError, match=r"stage degrade was begun with another prompts\.path"):
        Workflow.start(load(SCENES, again))


def test_what_was_read_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once degraded, prompts of another machine need no network; with --fresh they do."""
    rows = [{"prompt": "a red cube"}, {"prompt": "two cats"}]
    here = lambda *source: ((f"row {n}", row) for n, row in enumerate(rows))  # noqa: E731
    given = load(SCENES, ["prompts=owner/name", f"out={tmp_path / 'runs'}"])
    with pytest.raises(InputError, match=r"owner/name\[train\]: Couldn't reach"):
        Workflow.start(given)
    assert not (tmp_path / "runs").exists()
    with monkeypatch.context() as patch:
        patch.setattr("ddspo.prompts.reading.read_dataset", here)
        Workflow.start(given).run(("degrade",))
    flow = Workflow.start(given)
    assert flow.found.prompts == {"path": "owner/name"}
    with pytest.raises(InputError, match="Couldn't reach"):
        Workflow.start(given, fresh=True, first="degrade")


def start(folder: Path, *overrides: str) -> Workflow:
    """Of a run that nobody has begun, wherever the tests are run."""
    return Workflow.start(load(SCENES, [f"out={folder / 'new'}", *overrides]))


def test_variants_that_come_with_the_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are used where `given` reads them, and named where nobody does, as are negative prompts."""
    rows = [
        {"prompt": f"a red cat {number}", "degraded": ["a cat", "a dog"][number], "negative_prompt": "ugly"}
        for number in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("p.parquet", "p.jsonl"):
        given = [f"prompts={tmp_path / name}", f"out={tmp_path / name}.runs"]
        Workflow.start(load(SCENES, given))
        said = capsys.readouterr().err
        assert "prompts: column 'degraded' is not used: degradation=given takes variants from it" in said
        assert "prompts: column 'negative_prompt' is not used: images are made without negative prompts" in said
        Workflow.start(load(SCENES, [*given, "degradation=given"])).run(("degrade",))
        assert "'degraded' is not used" not in capsys.readouterr().err
        found = read_rows(RunFolder(tmp_path / f"{name}.runs/scenes").prompts)
        assert [row["degraded"] for row in found] == [
            [{"text": "a cat", "kind": "given"}],
            [{"text": "a dog", "kind": "given"}],
        ]
    with pytest.raises(InputError, match="no column 'worse'"):
        start(tmp_path, f"prompts={tmp_path / 'p.parquet'}", "degradation={given: {column: worse}}")
    with pytest.raises(
        InputError, match="none of 2 can be degraded, for example 'a red cat 0': write prompts with var"
    ):
        start(tmp_path, f"prompts={tmp_path / 'p.jsonl'}", "degradation={given: {column: worse}}")


def test_prompts_of_the_evaluation_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal files are refused; one shared prompt is counted, and so is a prompt without spaces."""
    data = "package://ddspo.scenes/data"
    with pytest.raises(InputError, match=r"evaluate\.prompts: all 172 are in evaluate\.validation too"):
        start(tmp_path, f"evaluate.validation={data}/evaluation.jsonl")
    with pytest.raises(InputError, match=r"evaluate\.prompts: all 172 are in prompts too"):
        start(tmp_path, f"prompts={data}/evaluation.jsonl")
    (tmp_path / "p.txt").write_text("A view of  a triangle\n\u4e00\u53ea\u7ea2\u8272\u7684\u732b\n")
    Workflow.start(load(SCENES, [f"prompts={tmp_path / 'p.txt'}", f"out={tmp_path}"]))
    said = capsys.readouterr().err
    assert "evaluate.prompts: 1 of 172 are in prompts too, for example 'a view of a triangle'" in said
    assert "negative_prompt" not in said
    assert "prompts: 1 of 2 are in a language without spaces between words" in said


def test_negative_prompts_of_the_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": "one circle", "tag": "counting", "include": [{"class": "circle", "count": 1}]}
    (tmp_path / "v.jsonl").write_text(json.dumps(row | {"negative_prompt": "ugly"}))
    Workflow.start(load(SCENES, [f"evaluate.validation={tmp_path / 'v.jsonl'}", f"out={tmp_path}"]))
    said = capsys.readouterr().err
    assert "evaluate.validation: column 'negative_prompt' is not used: images are made without" in said
    assert "evaluate.prompts: column" not in said


@pytest.mark.parametrize("key", ["prompts", "evaluate.prompts", "evaluate.validation", "validation.prompts"])
def test_prompts_that_are_made_or_published_wherever_prompts_are_named(key: str, tmp_path: Path) -> None:
    """As groups, and as the addresses that these stand for; the written recipe is read back."""
    named = {
        "{compose: {split: validation, count: 7}}": "compose://validation?count=7",
        "{benchmark: geneval}": "benchmark://geneval",
        "compose://alignment?seed=3": "compose://alignment?seed=3",
    }
    for group, address in named.items():
        recipe = load(SCENES, [f"{key}={group}"])
        value: object = recipe
        for name in key.split("."):
            value = getattr(value, name)
        assert value == (Source(address) if key == "prompts" else address)
        (tmp_path / "recipe.yaml").write_text(dump(recipe))
        assert load(tmp_path / "recipe.yaml") == recipe


def test_options_beside_what_is_made() -> None:
    chosen = ["prompts={compose: {}, limit: 3}", "prompts.compose.count=9", "prompts.where=['tag == colors']"]
    assert load(SCENES, chosen).prompts == Source("compose://alignment?count=9", where=("tag == colors",), limit=3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompts.benchmark=geneval", "prompts: both path and benchmark: leave one of them out"),
        ("prompts={benchmark: geneva}", "prompts.benchmark: no benchmark 'geneva': did you mean geneval?"),
        ("prompts={compose: alignment}", "prompts.compose: 'alignment': give its options"),
        ("prompts={compose: {cuont: 3}}", "prompts.compose: no option 'cuont': did you mean count?"),
        ("prompts={compose: {count: 0}}", "prompts.compose: count 0: input should be greater than 0"),
        ("evaluate.prompts={benchmark: geneval, limit: 3}", "evaluate.prompts: give one of path, compose"),
        ("evaluate.prompts={}", "evaluate.prompts: give one of path, compose"),
    ],
)
def test_mistakes_in_what_is_made_or_published(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(SCENES, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
