"""What each format makes of a small dataset of its schema."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preference_files import (
    encoded,
    hpd_v2,
    hpd_v3,
    image_reward,
    latent,
    lines,
    official,
    pick_a_pic,
    picture,
    save,
)

from ddspo import components
from ddspo.errors import InputError
from ddspo.preferences._rows import LeftOut
from ddspo.preferences.base import Preference, Preferences


def read(format_: object, source: Path) -> tuple[list[Preference], list[tuple[str, str]]]:
    """The pairs of a dataset, and place and reason of what was left out."""
    how = components.construct(Preferences, format_, "format")
    how.check(str(source))
    found = list(how.read(str(source)))
    left_out = [(each.place, each.reason) for each in found if isinstance(each, LeftOut)]
    return [each for each in found if isinstance(each, Preference)], left_out


def same(pair: Preference, win: int, lose: int) -> bool:
    """Whether the pictures are those of two numbers (PNG, so to the last bit)."""
    return all(
        np.array_equal(side.read(), picture(number)) for side, number in zip(pair.sides, (win, lose), strict=True)
    )


def close(pair: Preference, win: int, lose: int, **size: int) -> bool:
    """The same after JPEG: noise of full contrast comes through with an error that no two pictures share."""
    return all(
        np.abs(np.asarray(side.read(), float) - np.asarray(picture(number, **size), float)).mean() < 50
        for side, number in zip(pair.sides, (win, lose), strict=True)
    )


def test_pick_a_pic(tmp_path: Path) -> None:
    """Label 1 wins on either side; ties, rows without a label and labels that are none are left out; train only."""
    rows = [
        {},
        {"label_0": 0.0, "label_1": 1.0},
        {"label_0": 0.5, "label_1": 0.5},
        {"has_label": False},
        {"label_0": 0.9, "label_1": 0.1},
        {"caption": " "},
        {"jpg_1": b""},
    ]
    source = pick_a_pic(tmp_path / "set", rows)
    pairs, left_out = read("pick_a_pic", source)
    assert [pair.prompt for pair in pairs] == ["prompt 0", "prompt 1"]
    assert close(pairs[0], 0, 1)
    assert close(pairs[1], 3, 2)
    assert not close(pairs[1], 2, 3)
    assert pairs[1].notes == {
        **{"ranking_id": 701, "win_uid": "u3", "lose_uid": "u2"},
        **{"win_model": "other", "lose_model": "one"},
    }
    first, second = ("train-00000-of-00002-abc.parquet", "train-00001-of-00002-abc.parquet")
    assert left_out == [
        (f"{first}:2", "tie"),
        (f"{first}:3", "no label"),
        (f"{second}:0", "no label"),
        (f"{second}:1", "no prompt"),
        (f"{second}:2", "wrong columns"),
    ]
    how = components.construct(Preferences, "pick_a_pic", "format")
    assert how.count(str(source)) == 7
    assert len(read({"pick_a_pic": {"split": "test"}}, source)[0]) == 1
    assert len(read("pick_a_pic", source / "data" / first)[0]) == 2


def test_hpd_v2(tmp_path: Path) -> None:
    """In train 1 is the preferred of two; in test rank 1 is the best, and ranks 2, 1, 2 give two pairs and a tie."""
    source = hpd_v2(tmp_path)
    pairs, left_out = read("hpd_v2", source)
    assert [pair.prompt for pair in pairs] == ["a", "b"]
    assert close(pairs[0], 0, 1)
    assert close(pairs[1], 3, 2)
    assert left_out == []
    pairs, left_out = read({"hpd_v2": {"split": "test"}}, source)
    assert close(pairs[0], 11, 10)
    assert close(pairs[1], 11, 12)
    assert [pair.place for pair in pairs] == ["test.json:0[0,1]", "test.json:0[1,2]"]
    assert left_out == [("test.json:0[0,2]", "tie")]


def test_hpd_v3(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {},
        {"choice_dist": None, "confidence": None},
        {"choice_dist": [5, 5]},
        {"choice_dist": [1, 9]},
        {"confidence": 0.4},
    ]
    source = hpd_v3(tmp_path, rows)
    pairs, left_out = read("hpd_v3", source)
    assert [pair.prompt for pair in pairs] == ["prompt 0", "prompt 1", "prompt 4"]
    assert close(pairs[1], 3, 4)
    assert pairs[0].notes == {"win_model": "A", "lose_model": "B", "confidence": 0.9}
    assert left_out == [("train.json:2", "tie"), ("train.json:3", "wrong columns")]
    pairs, left_out = read({"hpd_v3": {"confidence": 0.5}}, source)
    assert [pair.prompt for pair in pairs] == ["prompt 0", "prompt 1"]
    assert left_out[-1] == ("train.json:4", "too little confidence")


@pytest.mark.parametrize("table", [True, False])
def test_image_reward(table: bool, tmp_path: Path) -> None:
    """Ranks 2, 1, 2, 3 give (1 0), tie, (0 3), (1 2), (1 3), (2 3): five pairs and one tie of 4 * 3 / 2."""
    pairs, left_out = read("image_reward", image_reward(tmp_path, [2, 1, 2, 3], table))
    assert [tuple(int(Path(side.key).stem) for side in pair.sides) for pair in pairs] == [
        *((1, 0), (0, 3), (1, 2), (1, 3), (2, 3)),
    ]
    assert {pair.prompt for pair in pairs} == {"a painting"}
    assert [reason for _, reason in left_out] == ["tie"]


def test_scores_of_ranks(tmp_path: Path) -> None:
    """A gap counts ranks: of 2, 1, 2, 3 the second is one rank better than the first, and two than the last."""
    pairs, _ = read("image_reward", image_reward(tmp_path / "a", [2, 1, 2, 3], True))
    assert [pair.scores for pair in pairs] == [(-1, -2), (-2, -3), (-1, -2), (-1, -3), (-2, -3)]
    pairs, _ = read({"hpd_v2": {"split": "test"}}, hpd_v2(tmp_path / "b"))
    assert [pair.scores for pair in pairs] == [(-1, -2), (-1, -2)]
    formats = ["image_reward", {"hpd_v2": {"split": "test"}}, "hpd_v2", "pick_a_pic", "official_latents"]
    built = [components.construct(Preferences, each, "format") for each in formats]
    assert [each.has_scores for each in built] == [True, True, False, False, False]


def test_scores_of_votes(tmp_path: Path) -> None:
    """9 against 1 votes are .9 and .1; where nobody counted there is no pair."""
    rows: list[dict[str, Any]] = [{}, {"choice_dist": None}, {"choice_dist": [3, 1]}, {"choice_dist": [0, 0]}]
    source = hpd_v3(tmp_path, rows)
    assert [pair.scores for pair in read("hpd_v3", source)[0]] == [None, None, None]
    pairs, left_out = read({"hpd_v3": {"scores": True}}, source)
    assert [pair.scores for pair in pairs] == [(0.9, 0.1), (0.75, 0.25)]
    assert left_out == [("train.json:1", "votes that are not known"), ("train.json:3", "tie")]


def test_scores_of_a_table(tmp_path: Path) -> None:
    """Two columns of numbers, also where a file has them as text; they may contradict the choice."""
    save(tmp_path / "0.png", 0)
    save(tmp_path / "1.png", 1)
    one = {"prompt": "p", "chosen": "0.png", "rejected": "1.png"}
    scores = [{"a": 2, "b": 0.5}, {"a": "-1e1", "b": "3"}, {"a": None, "b": 1}, {"a": "much", "b": 1}, {"a": 10**400}]
    path = lines(tmp_path / "t.jsonl", [one | each for each in scores])
    pairs, left_out = read({"table": {"chosen_score": "a", "rejected_score": "b"}}, path)
    assert [pair.scores for pair in pairs] == [(2.0, 0.5), (-10.0, 3.0)]
    assert left_out == [(f"t.jsonl:{number}", "wrong columns") for number in (3, 4, 5)]
    assert read("table", path)[0][0].scores is None
    with pytest.raises(InputError, match="of chosen_score and rejected_score one is missing: name both"):
        read({"table": {"chosen_score": "a"}}, path)
    with pytest.raises(InputError, match=r"no column c but .*: name it with dataset.format.table.rejected_score"):
        read({"table": {"chosen_score": "a", "rejected_score": "c"}}, path)


@pytest.mark.parametrize("names", [("prompt", "chosen", "rejected"), ("caption", "winner", "lose")])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "bytes", "hub"])
def test_tables(kind: str, names: tuple[str, str, str], tmp_path: Path) -> None:
    """Any kind of file, aliases, images by path or as bytes, also as `datasets` writes them."""
    save(tmp_path / "a/0.png", 0)
    save(tmp_path / "1.png", 1)
    cells = (("one", "a/0.png", "1.png"), ("two", "1.png", "a/0.png"))
    rows: list[Any] = [dict(zip(names, each, strict=True)) for each in cells]
    path = tmp_path / f"table.{'parquet' if kind in ('bytes', 'hub') else kind}"
    if kind == "jsonl":
        lines(path, rows)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    else:
        content = {name: encoded(number) for number, name in enumerate(("a/0.png", "1.png"))}
        wrap = {"parquet": str, "bytes": content.get, "hub": lambda name: {"bytes": content[name], "path": "x.png"}}
        rows = [{names[0]: row[names[0]]} | {name: wrap[kind](row[name]) for name in names[1:]} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), path)
    pairs, left_out = read("table", path)
    assert [pair.prompt for pair in pairs] == ["one", "two"]
    assert same(pairs[0], 0, 1)
    assert same(pairs[1], 1, 0)
    assert left_out == []


def test_a_table_with_columns_of_its_own(tmp_path: Path) -> None:
    save(tmp_path / "0.png", 0)
    save(tmp_path / "1.png", 1)
    path = lines(tmp_path / "t.jsonl", [{"p": "one", "a": "0.png", "chosen": "1.png", "b": "1.png"}])
    pairs, _ = read({"table": {"prompt": "p", "chosen": "a", "rejected": "b"}}, path)
    assert same(pairs[0], 0, 1)
    with pytest.raises(InputError, match=r"no column prompt but p, a, chosen, b: name it with dataset.format.table"):
        read("table", path)


def test_rows_that_are_none(tmp_path: Path) -> None:
    """A broken line is one row left out; a list that is cut off is no dataset."""
    save(tmp_path / "0.png", 0)
    good = {"prompt": "p", "chosen": "0.png", "rejected": "0.png"}
    path = lines(tmp_path / "t.jsonl", [good, [1, 2], {"prompt": "p"}])
    with path.open("a") as file:
        file.write('\n{"prompt": "cut o\n' + "[" * 100000 + "\n" + '{"prompt": ' + "9" * 5000 + "}\n")
    pairs, left_out = read("table", path)
    assert len(pairs) == 1
    assert left_out == [(f"t.jsonl:{number}", "wrong columns") for number in (2, 3, 5, 6, 7)]
    whole = json.dumps([good] * 20)
    (tmp_path / "t.json").write_text(whole[:-30])
    with pytest.raises(InputError, match="no whole JSON list: broken or cut off"):
        read("table", tmp_path / "t.json")


def test_a_long_list_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 7 characters cut every item, a number among text, and escapes."""
    monkeypatch.setattr("ddspo.preferences._rows.CHUNK", 7)
    rows = [{"prompt": f'a \\ "{number}" ü 🦊 ]', "chosen": "c", "rejected": "r"} for number in range(20)]
    path = tmp_path / "t.json"
    path.write_text("\ufeff " + json.dumps(rows, indent=3) + "\n")
    how = components.construct(Preferences, "table", "format")
    assert [found.row for found in how.rows(str(path))] == rows


def test_folders(tmp_path: Path) -> None:
    for name, number in {"win/a.png": 0, "lose/a.png": 1, "win/b.png": 2, "lose/c.png": 3, "win/d.png": 4}.items():
        save(tmp_path / name, number)
    for name in ("lose/d.png", "win/e.png", "win/e.webp", "lose/e.png"):
        save(tmp_path / name, 5)
    (tmp_path / "win/a.txt").write_text("beside\n")
    pairs, left_out = read("folders", tmp_path)
    assert [(pair.place, pair.prompt) for pair in pairs] == [("a", "beside")]
    assert same(pairs[0], 0, 1)
    assert left_out == [
        *(("b", "missing file"), ("c", "missing file"), ("d", "no prompt"), ("e", "two files of one name")),
    ]
    (tmp_path / "d.txt").write_text("in the source")
    lines(tmp_path / "metadata.jsonl", [{"file_name": "win/a.png", "text": "in the list"}])
    pairs, _ = read("folders", tmp_path)
    assert [pair.prompt for pair in pairs] == ["in the list", "in the source"]


def test_suffixes(tmp_path: Path) -> None:
    for name, number in {"a_good.png": 0, "a_bad.jpg": 1, "b_good.png": 2, "notes.png": 3}.items():
        save(tmp_path / name, number)
    (tmp_path / "a.txt").write_text("a prompt")
    pairs, left_out = read({"folders": {"win": "good", "lose": "bad"}}, tmp_path)
    assert [pair.prompt for pair in pairs] == ["a prompt"]
    assert np.array_equal(pairs[0].sides.win.read(), picture(0))
    assert left_out == [("b", "missing file")]
    with pytest.raises(InputError, match="holds neither win/ with images nor any NAME_win"):
        read("folders", tmp_path)


def test_official_latents(tmp_path: Path) -> None:
    """Latents come through to the last bit; of rows that share a file with another prompt nobody knows whose it is."""
    rows = [
        {},
        {},
        {"prompt": "another", "pos_file": "1.safetensors"},
        {"neg_prompt": ""},
        {"neg_file": "9.safetensors"},
    ]
    source = official(tmp_path / "store", rows)
    pairs, left_out = read("official_latents", source)
    assert [(pair.prompt, pair.degraded) for pair in pairs] == [("prompt 0", "worse 0"), ("prompt 4", "worse 4")]
    win, lose = (side.read() for side in pairs[0].sides)
    assert torch.equal(torch.as_tensor(win), latent(0).float())
    assert torch.equal(torch.as_tensor(lose), latent(1).float())
    assert left_out == [
        ("metadata.jsonl:2", "file of several prompts"),
        ("metadata.jsonl:3", "file of several prompts"),
        ("metadata.jsonl:4", "no prompt"),
    ]


@pytest.mark.parametrize(
    ("format_", "make", "message"),
    [
        (
            "pick_a_pic",
            lambda p: lines(p / "t.jsonl", [{"prompt": 1}]),
            "t.jsonl:1 has no caption, jpg_0, jpg_1, label_0",
        ),
        ("pick_a_pic", lambda p: p, r"no train-\*.parquet in this folder"),
        ("pick_a_pic", lambda p: p / "nothing", "no file or folder there, and no OWNER/NAME of the hub"),
        ("table", lambda p: lines(p / "t.jsonl", []), "holds no row that can be read"),
        ("table", lambda p: lines(p / "t.yaml", [1]), "give a .parquet, .csv, .jsonl or .json file"),
        ("table", lambda p: lines(p / "t.parquet", [1]), "no whole parquet file"),
        ("hpd_v2", lambda p: p, "holds no train.json"),
        ("hpd_v3", lambda p: p / "x", "no folder there"),
        ("image_reward", lambda p: p, "holds neither metadata-train.parquet nor images/train"),
        ("official_latents", lambda p: p, "holds no metadata.jsonl"),
        ("folders", lambda p: p, "holds neither win/ with images"),
        (
            "labelled",
            lambda p: lines(p / "t.jsonl", [{"image": 1}]),
            "no column prompt but image: name it with dataset",
        ),
        ("captions", lambda p: p, r"no train-\*.parquet in this folder"),
        ("captions", lambda p: p / "nothing", "no file or folder there"),
        ("captions", lambda p: save(p / "a.png", 1) or p, "holds no row that can be read"),
    ],
)
def test_nothing_to_read(format_: str, make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(format_, make(tmp_path))
    assert "\n" not in str(caught.value)


VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["a.png", "../a.png"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KEYS = {
    "pick_a_pic": ("caption", "jpg_0", "jpg_1", "label_0", "label_1", "has_label", "ranking_id"),
    "hpd_v2": ("prompt", "file_path", "human_preference"),
    "hpd_v3": ("prompt", "path1", "path2", "choice_dist", "confidence"),
    "image_reward": ("image_path", "prompt_id", "prompt", "rank"),
    "official_latents": ("id", "prompt", "neg_prompt", "pos_file", "neg_file"),
    "table": ("prompt", "chosen", "rejected"),
    "captions": ("image", "file_name", "caption", "text"),
    "labelled": ("image", "prompt", "label", "liked"),
}
FILES = {"hpd_v2": "train.json", "hpd_v3": "train.json", "official_latents": "metadata.jsonl"}


@pytest.mark.parametrize("format_", KEYS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_row_holds_it_is_a_pair_or_left_out(format_: str, data: st.DataObject, tmp_path: Path) -> None:
    """No value of any type in any column, and no missing one, ends an import."""
    row = st.dictionaries(st.sampled_from(KEYS[format_]), VALUE, max_size=len(KEYS[format_]))
    rows = data.draw(st.lists(row, min_size=1, max_size=3))
    name = "images/train/1/1.json" if format_ == "image_reward" else FILES.get(format_, "t.jsonl")
    path = lines(tmp_path / name, rows)
    how = components.construct(Preferences, format_, "format")
    for found in how.read(str(path if name == "t.jsonl" else tmp_path)):
        assert isinstance(found, Preference | LeftOut)
        assert isinstance(found, LeftOut) or [side.key for side in found.sides]


def test_a_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    """Of 80 MB in one row group, in pages of 1.6 MB, at most 40 MB is in Arrow's memory at any row.

    A piece of 64 rows has 13 MB. (Arrow reads whole pages; a file whose pages are as large as its row groups takes
    one row group.)
    """
    noise = np.random.default_rng(0).bytes(200_000)
    sides = ((noise[n : 100_000 + n], noise[-100_000 - n : -n]) for n in range(1, 401))
    rows = [{"caption": "a", "label_0": 1.0, "label_1": 0.0, "jpg_0": one, "jpg_1": other} for one, other in sides]
    path, plain = tmp_path / "train-0.parquet", {"compression": "none", "use_dictionary": False}
    pq.write_table(pa.Table.from_pylist(rows), path, **plain, write_batch_size=16, data_page_size=2**20)
    how, before = components.construct(Preferences, "pick_a_pic", "format"), pa.total_allocated_bytes()
    used = [pa.total_allocated_bytes() - before for _ in how.read(str(tmp_path))]
    assert len(used) == 400
    assert max(used) < 40e6
