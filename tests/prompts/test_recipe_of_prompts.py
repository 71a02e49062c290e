"""A recipe's prompts: how they are written, when they are read, and what makes them others."""

from pathlib import Path

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
