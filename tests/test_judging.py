"""Scores that are kept, controls, and comparisons worked out by hand."""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from ddspo.errors import InputError
from ddspo.judging.asking import asking
from ddspo.judging.compare import compared, curves, described, difference
from ddspo.judging.control import controls
from ddspo.judging.judging import Judging
from ddspo.judging.ledger import Key, ledger
from ddspo.judging.pictures import Picture
from ddspo.metrics.base import Judge, Metric, Score
from ddspo.progress import Progress
from ddspo.rows import Row
from ddspo.weights import Hub

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Length(Metric):
    """Brightness times the length of the prompt, plus `more`; counts what it was asked."""

    title = "length"
    more: float = 0.0
    asked: list[int] = field(default_factory=list, repr=False, compare=False)
    opened: list[bool] = field(default_factory=list, repr=False, compare=False)

    @contextmanager
    def open(self, device: torch.device) -> Iterator[Judge]:
        self.opened.append(True)

        def judge(images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
            self.asked.append(len(images))
            values = [image.mean() * len(row["prompt"]) + self.more for image, row in zip(images, rows, strict=True)]
            return [Score(float(value), f"{value:.0f}") for value in values]

        yield judge


def grey(shade: int, side: int = 4) -> np.ndarray:
    return np.full((side, side, 3), shade, np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/ddspo/scores.sqlite"


def ask(metric: Metric, shades: Sequence[int], prompts: Sequence[str], **more: Any) -> list[Score]:
    with asking(metric, CPU) as judge:
        return judge([grey(shade) for shade in shades], [{"prompt": prompt} | more for prompt in prompts])


def test_nothing_is_judged_twice() -> None:
    """Equal pixels with an equal row are known, whoever asks; what tells where an image is does not matter."""
    metric = Length()
    first = ask(metric, [1, 2, 1], ["a", "a", "a"], item=3, seed=1)
    assert [score.value for score in first] == [1, 2, 1]
    assert metric.asked == [2]
    again = Length()
    assert ask(again, [2, 1, 3], ["a", "a", "a"], item=4, index=9) == [first[1], first[0], Score(3.0, "3")]
    assert again.asked == [1]
    assert ask(again, [1], ["bb"]) == [Score(2.0, "2")]
    assert ask(again, [1], ["a"], tag="x") == [Score(1.0, "1")]
    assert again.asked == [1, 1, 1]


def test_a_judge_that_is_not_needed_is_not_loaded() -> None:
    ask(Length(), [1], ["a"])
    metric = Length()
    ask(metric, [1], ["a"])
    assert not metric.opened


def test_other_options_are_another_judge() -> None:
    ask(Length(), [1], ["a"])
    assert ask(Length(more=5.0), [1], ["a"]) == [Score(6.0, "6")]
    assert Length().identity(CPU) != Length(more=5.0).identity(CPU)
    assert Length().identity(CPU).startswith("test_judging-")


def test_an_interruption_loses_one_batch(tmp_path: Path) -> None:
    """The second batch is never judged: what the first gave is known afterwards."""
    metric = Length(more=float("nan"))
    with asking(Length(), CPU) as judge:
        judge([grey(1)], [{"prompt": "a"}])
        with pytest.raises(ZeroDivisionError):
            raise ZeroDivisionError
    later = Length()
    ask(later, [1, 2], ["a", "a"])
    assert later.asked == [1]
    with pytest.raises(InputError, match=r"test_judging: scores nan: use a judge with finite scores"):
        ask(metric, [1], ["a"])


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0 and then nothing"])
def test_a_damaged_ledger_is_begun_anew(content: bytes, cache: Path) -> None:
    ask(Length(), [1], ["a"])
    cache.write_bytes(content)
    metric = Length()
    assert ask(metric, [1], ["a"]) == ask(metric, [1], ["a"]) == [Score(1.0, "1")]
    assert metric.asked == [1]


def test_damage_that_shows_late_is_one_line_and_the_next_time_all_is_well(cache: Path) -> None:
    """The head of the file is whole, its pages are not."""
    shades = [*range(200)]
    ask(Length(), shades, ["a"] * 200)
    content = bytearray(cache.read_bytes())
    content[4096:] = b"x" * (len(content) - 4096)
    cache.write_bytes(content)
    with pytest.raises(InputError, match=r"scores.sqlite: damaged, and now deleted: run the command again"):
        ask(Length(), shades, ["a"] * 200)
    metric = Length()
    assert len(ask(metric, shades, ["a"] * 200)) == 200
    assert metric.asked == [200]


def test_a_batch_is_kept_as_a_whole_or_not_at_all(cache: Path) -> None:
    def scores() -> Iterator[tuple[Key, Score]]:
        yield Key("a", "x"), Score(1.0)
        raise ZeroDivisionError

    with ledger() as kept:
        with pytest.raises(ZeroDivisionError):
            kept.keep("judge", scores())
        kept._database.execute(
            "CREATE TRIGGER no BEFORE INSERT ON scores WHEN NEW.image = 'b' BEGIN SELECT RAISE(FAIL, 'no'); END"
        )
        with pytest.raises(sqlite3.IntegrityError):
            kept.keep("judge", [(Key("a", "x"), Score(1.0)), (Key("b", "x"), Score(2.0))])
        assert not kept.known("judge", [Key("a", "x")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_without_a_place_to_write_nothing_is_remembered(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.parent.chmod(0o500)
    assert ask(Length(), [1], ["a"]) == [Score(1.0, "1")]


def test_a_home_that_is_a_file_remembers_nothing(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    metric = Length()
    assert ask(metric, [1], ["a"]) == ask(metric, [1], ["a"]) == [Score(1.0, "1")]
    assert metric.asked == [1, 1]


def test_several_write_at_once(cache: Path) -> None:
    """Two connections take turns."""
    with ledger() as one, ledger() as two:
        one.keep("judge", [(Key("a", "x"), Score(1.0, "one"))])
        two.keep("judge", [(Key("b", "x"), Score(2.0))])
        assert one.known("judge", [Key("a", "x"), Key("b", "x"), Key("c", "x")]) == {
            Key("a", "x"): Score(1.0, "one"),
            Key("b", "x"): Score(2.0),
        }
        assert not one.known("other", [Key("a", "x")])
    assert sqlite3.connect(cache).execute("SELECT COUNT(*) FROM scores").fetchone() == (2,)


def pictures(folder: Path, prompts: Sequence[str], images: int = 1) -> list[Picture]:
    found = []
    for number, prompt in enumerate(prompts):
        for index in range(images):
            path = folder / f"{number}_{index}.png"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey(10 * number + index)).save(path)
            found.append(Picture(path, {"prompt": prompt, "tag": prompt[0], "item": number}, str(number), index))
    return found


def test_scores_are_in_order_whatever_the_batch(tmp_path: Path) -> None:
    shown = pictures(tmp_path, ["a", "bb", "ccc"], images=3)
    found = [Judging(Accelerator(), Progress(speaks=False), batch).scores(Length(), shown) for batch in (1, 4, 100)]
    expected = [(10 * number + index) * (number + 1) for number in range(3) for index in range(3)]
    assert [[score.value for score in each] for each in found] == [expected] * 3


def test_what_is_downloaded_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And weights that may not be used for everything are named each time."""

    class Bound(Length):
        @property
        def weights(self) -> tuple[Hub, ...]:
            return (Hub(size=2e9, licence="CC BY-NC 4.0", commercial=False, place=str(tmp_path)),)

    Judging(Accelerator(), Progress(), 1).scores(Bound(), pictures(tmp_path / "images", ["a"]))
    assert f"uses {tmp_path} (2 GB, CC BY-NC 4.0: no commercial use)" in capsys.readouterr().err.replace("\n", "")
    assert described(Bound())["commercial"] is False
    assert described(Bound())["licences"] == [f"{tmp_path} (CC BY-NC 4.0: no commercial use)"]


def test_a_control_is_one_image_a_prompt_with_the_row_half_the_list_away(tmp_path: Path) -> None:
    """Four prompts: the first gets the third's row, and so on; its own place and seed stay."""
    shown = pictures(tmp_path, ["a", "bb", "ccc", "dddd"], images=2)
    found = controls(shown)
    assert [(each.path.name, each.row["prompt"], each.row["tag"], each.row["item"]) for each in found] == [
        ("0_0.png", "ccc", "c", 0),
        ("1_0.png", "dddd", "d", 1),
        ("2_0.png", "a", "a", 2),
        ("3_0.png", "bb", "b", 3),
    ]
    same = pictures(tmp_path, ["a", "a", "bb"])
    assert [each.row["prompt"] for each in controls(same)] == ["bb", "bb", "a"]
    assert controls(same[:2]) == []


def rows(model: str, values: Mapping[str, Sequence[float]], *, control: bool = False, scale: float = 1.0) -> list[Row]:
    """Values by 'group item'."""
    return [
        {"model": model, "tag": key[0], "group": key[0], "item": key, "index": index, "value": value}
        | {"control": control, "scale": scale}
        for key, every in values.items()
        for index, value in enumerate(every)
    ]


def test_models_are_compared_with_the_first() -> None:
    """Groups x and y, two images a prompt.

    first: x1 (0, 1), x2 (1, 1), y1 (0, 0): x = .75, y = 0, overall .375. other: x1 (1, 1), x2 (1, 0), y1 (1, 0):
    x = .75, y = .5, overall .625. Differences x1 +.5, x2 -.5, y1 +.5: x 0, y .5, overall .25. Won: x1 and y1 of
    three. The control of first is 1/4.
    """
    found = compared(
        ["first", "other"],
        [
            *rows("first", {"x1": (0, 1), "x2": (1, 1), "y1": (0, 0)}),
            *rows("other", {"x1": (1, 1), "x2": (1, 0), "y1": (1, 0)}),
            *rows("first", {"x1": (0.5,), "y1": (0,)}, control=True),
        ],
    )
    first, other = found["models"]["first"], found["models"]["other"]
    assert (found["prompts"], found["images_per_prompt"]) == (3, 2)
    assert first == {"score": 0.375, "by_tag": {"x": 0.75, "y": 0.0}, "control": 0.25}
    assert (other["score"], other["difference"], other["control"]) == (0.625, 0.25, None)
    assert other["won"] == pytest.approx(2 / 3)
    low, high = other["interval"]
    assert low == pytest.approx(0.0)  # both draws of x are x2: (-.5 + .5) / 2
    assert high == pytest.approx(0.5)  # both are x1
    assert other["won_interval"][0] < 2 / 3 < other["won_interval"][1]


def test_where_less_is_better_prompts_are_won_by_less() -> None:
    first, other = (
        rows("first", {"x1": (3,), "x2": (3,), "x3": (3,)}),
        rows("other", {"x1": (1,), "x2": (4,), "x3": (3,)}),
    )
    assert difference(first, other)["won"] == pytest.approx(0.5)
    other[1]["value"] = 2
    assert difference(first, other)["won"] == pytest.approx(0.5 / 3)
    assert difference(first, other, higher_is_better=False)["won"] == pytest.approx(2.5 / 3)


def test_only_images_that_both_have_are_compared() -> None:
    """x1's second image and x2 are the first's alone; without anything in common there is no difference."""
    first, other = rows("first", {"x1": (1, 9), "x2": (7,)}), rows("other", {"x1": (2,), "x3": (0,)})
    assert difference(first, other)["difference"] == 1
    assert difference(first, rows("other", {"z1": (1,)})) == {}
    assert "difference" not in compared(["first", "other"], [*first, *rows("other", {"z1": (1,)})])["models"]["other"]


def test_curves_are_by_scale() -> None:
    found = curves(
        ["first", "other"],
        [
            *rows("first", {"x1": (1,)}, scale=1.0),
            *rows("first", {"x1": (2,)}, scale=7.5),
            *rows("other", {"x1": (4,)}, scale=7.5),
        ],
    )
    assert found["curve"] == {"first": {"1": 1.0, "7.5": 2.0}, "other": {"7.5": 4.0}}
    assert found["by_scale"] == {"other": {"7.5": {"difference": 2.0, "interval": [2.0, 2.0]}}}
    assert found["given_up"] == []


def test_scales_of_fewer_images_were_given_up() -> None:
    """Two images of the prompt at 3, one at 1 and at 7.5."""
    few = [each for scale in (1.0, 7.5) for each in rows("first", {"x1": (1,)}, scale=scale)]
    assert curves(["first"], [*few, *rows("first", {"x1": (2, 2)}, scale=3.0)])["given_up"] == ["1", "7.5"]
