"""Anyone's metadata through the data path: each row is carried whole or refused in one line, and none gets out."""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddspo.degradations.remove_words import RemoveWords
from ddspo.errors import InputError
from ddspo.files import write_rows
from ddspo.maths.pair import Pair
from ddspo.pairs.shards import DEGRADED, Origin
from ddspo.pairs.store import PairStore
from ddspo.pairs.writer import PairWriter, begin, finish
from ddspo.progress import Progress
from ddspo.prompts.reading import Reading
from ddspo.prompts.source import Source
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages.degrade import degrade
from ddspo.stages.pairs import inspect
from ddspo.stages.report import report

FEW = settings(max_examples=40)
TRAPS = (
    *("", " ", ".", "..", "../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "~", "-rf", "CON", "%2e%2e", "C:\\x"),
    *("a\x00b", "a\nb", "a\r\nb", "a\u2028b", "\ufeffa b", "a\x1bb", "\u202ea b", "\u200f", "e\u0301", "🦄 🦄"),
    "x" * 10_000,
    *("<script>alert(1)</script> b", "</pre><img src=x onerror=alert(1)>", "\"' onload='alert(2)", "{{ 7 * 7 }} b"),
    *("=1+1,b", '"', "NaN", "null", "[bold]a[/bold] b", "p000001", "a b", "x1", "x2"),
)
TEXT = st.sampled_from(TRAPS) | st.text(max_size=20)
PLAIN = st.sampled_from(["one", "two", "three", "4"])
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.just("a red cube") | TEXT | ANYTHING}, optional={"id": PLAIN | TEXT | ANYTHING, "tag": ANYTHING}
    ),
    max_size=4,
)
TEXTS = st.lists(st.fixed_dictionaries({"id": PLAIN | TEXT, "prompt": st.just("a red cube") | TEXT}), max_size=4)


def accepted(work: Callable[[], object]) -> bool:
    """Whether some work is done; if it is refused, in one short line that a terminal can show."""
    try:
        work()
        return True
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) < 1500
    return False


def carry(name: str, data: bytes, rows: list[dict[str, Any]], *, whole: bool) -> None:
    """A file of prompts through the stage that reads it."""
    with TemporaryDirectory() as folder:
        path, run = Path(folder) / name, RunFolder(Path(folder) / "run")
        path.write_bytes(data)
        reading = Reading(Source(str(path), duplicates="keep"), whole=whole)
        if not accepted(lambda: degrade(run, reading, None if whole else RemoveWords(), 0, Progress(speaks=False))):
            return
        assert {each.name for each in Path(folder).iterdir()} == {name, "run"}
        found = read_rows(run.prompts) + ([] if whole else read_rows(run.undegraded))
        assert sorted(row["prompt"] for row in found) == sorted(row["prompt"] for row in rows)
        assert all(re.fullmatch(r"[\w.-]{1,64}", row["id"], re.ASCII) and row["id"][0] != "." for row in found)
        assert len({row["id"] for row in found}) == len(found)
        if whole:
            assert [row.get("tag") for row in found] == [row.get("tag") for row in rows]


@given(ROWS, st.booleans())
@FEW
def test_jsonl(rows: list[dict[str, Any]], whole: bool) -> None:
    carry("p.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode(), rows, whole=whole)


@given(TEXTS, st.booleans())
@FEW
def test_csv(rows: list[dict[str, Any]], whole: bool) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, ["id", "prompt"], lineterminator="\n", quoting=csv.QUOTE_ALL)
    table.writeheader()
    table.writerows(rows)
    carry("p.csv", text.getvalue().encode(), rows, whole=whole)


@given(TEXTS, st.booleans())
@FEW
def test_parquet(rows: list[dict[str, Any]], whole: bool) -> None:
    assume(rows)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    carry("p.parquet", sink.getvalue().to_pybytes(), rows, whole=whole)


@given(st.binary(max_size=40), st.sampled_from(["p.txt", "p.jsonl", "p.csv", "p.parquet", "p.jsonl.gz", "p.tsv"]))
@FEW
def test_any_bytes(data: bytes, name: str) -> None:
    """Either refused, or each prompt is a text that can be written and read again."""
    with TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        source, kept = Source(str(Path(folder) / name)), Path(folder) / "rows.jsonl"
        if accepted(lambda: write_rows(kept, Reading(source))):
            assert read_rows(kept) == list(Reading(source))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "column",
    [
        pa.array([3, 4]),
        pa.array([math.nan, 1.5]),
        pa.array([b"a b", b"c d"]),
        pa.array([["a b"], ["c d"]]),
        pa.array([{"text": "a b"}, {"text": "c d"}]),
        pa.array([None, None]),
        pa.array([0, 1], pa.timestamp("s")),
    ],
    ids=lambda column: str(column.type),
)
def test_columns_of_another_type(tmp_path: Path, column: pa.Array, whole: bool) -> None:
    pq.write_table(pa.table({"prompt": column}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"row 1: no prompt: "):
        list(Reading(Source(str(tmp_path / "p.parquet")), whole=whole))


@pytest.mark.parametrize("whole", [True, False])
def test_texts_however_they_are_stored(tmp_path: Path, whole: bool) -> None:
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(pa.table({"prompt": pa.array(["a b", "c d"]).cast(kind)}), tmp_path / "p.parquet")
        rows = list(Reading(Source(str(tmp_path / "p.parquet")), whole=whole))
        assert [row["prompt"] for row in rows] == ["a b", "c d"]


SHAPE = (1, 2, 1)
NUMBERS = st.sampled_from([0.0, 1.0, -0.5, 3.0, 1e6, math.nan, math.inf, -math.inf])
TYPES = st.sampled_from([torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
SHAPES = st.sampled_from([SHAPE, SHAPE, SHAPE, (2, 1, 1), (1, 2), (1, 2, 2)])


def store_pairs(folder: Path, rows: list[dict[str, Any]], latents: Pair[torch.Tensor]) -> None:
    begin(folder)
    writer = PairWriter(folder, Origin({"model": "<b>\u202e"}, SHAPE, DEGRADED))
    writer.add(0, 0, rows, latents)
    writer.close(0, 1)
    finish(folder, 1)
    PairStore.open(folder).verify(SHAPE)


@given(TEXTS, st.lists(NUMBERS, min_size=4, max_size=4), TYPES, SHAPES)
@FEW
def test_pairs(rows: list[dict[str, Any]], values: list[float], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """What the store is given comes back as it was, and is told legibly, or is refused before it can be trained on."""
    assume(rows)
    assume(dtype.is_floating_point or all(map(math.isfinite, values)))
    start = torch.tensor(values[: len(rows)], dtype=torch.float64).to(dtype)
    latents = start.view(-1, *[1] * len(shape)).expand(len(rows), *shape)
    full = [row | {"degraded": row["prompt"], "kind": row["id"], "seed": 0} for row in rows]
    with TemporaryDirectory() as place:
        folder = Path(place) / "pairs"
        if not accepted(lambda: store_pairs(folder, full, Pair(latents, latents))):
            return
        assert all(line.isprintable() for line in inspect(folder).lines())
        store = PairStore.open(folder)
        found = store.take(range(len(rows)))
        assert [found.ids, found.prompts] == [[row[name] for row in rows] for name in ("id", "prompt")]
        assert len(set(found.ids)) == len(rows)
        assert torch.equal(found.latents.win, latents.half())
        assert torch.isfinite(found.latents.lose).all()
        assert {each.name for each in Path(place).iterdir()} == {"pairs"}


class Structure(HTMLParser):
    """The elements of a page with the names of their attributes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, sorted(name for name, _ in attrs)))


def structure(prompt: str, degraded: str) -> list[tuple[str, list[str]]]:
    """Of the report of a run that shows one pair."""
    with TemporaryDirectory() as folder:
        run, page = RunFolder(Path(folder)), Structure()
        pair = {"n": 0, "id": "p0", "prompt": prompt, "degraded": degraded, "seed": 1}
        write_rows(run.images / "pairs" / "pairs.jsonl", [pair])
        report(run, "small", evaluated=False)
        page.feed(run.report_html.read_text(encoding="utf-8"))
        return page.found


@given(TEXT, TEXT)
@settings(max_examples=25)
def test_the_report(prompt: str, degraded: str) -> None:
    """A prompt is a text of the page and nothing else: elements and attributes are those of one with plain prompts."""
    assert structure(prompt, degraded) == structure("a red cube", "a cube")
