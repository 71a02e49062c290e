"""Prompts from every kind of source, and which of them are used."""

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddspo.errors import InputError
from ddspo.prompts.filters import Filter
from ddspo.prompts.language import Language
from ddspo.prompts.reading import Reading, read_prompts
from ddspo.prompts.source import Source

ROWS = [
    {"prompt": "a red cube", "cfg": 7.5, "nsfw": 0.1},
    {"prompt": "two cats\u2028on a mat, oil", "cfg": 5.0, "nsfw": 0.9},
    {"prompt": "a  red cube ", "cfg": 1.0, "nsfw": 0.2},
    {"prompt": "ein roter Würfel auf einem blauen Tisch", "cfg": 9.0, "nsfw": 0.0},
]
TEXTS = [str(row["prompt"]) for row in ROWS]


def csv_of(rows: list[dict[str, object]]) -> str:
    lines = [",".join(rows[0])]
    return "\n".join([*lines, *(",".join(f'"{value}"' for value in row.values()) for row in rows)]) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows as every kind of file."""
    place = tmp_path_factory.mktemp("sources")
    (place / "p.txt").write_text("\ufeff" + "\n\n".join(TEXTS) + "\r\n", encoding="utf-8")
    (place / "plain").write_text("\n".join(TEXTS), encoding="utf-8")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (place / "p.jsonl").write_text(lines, encoding="utf-8")
    (place / "p.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (place / "p.csv").write_text(csv_of(ROWS), encoding="utf-8")
    table = pa.Table.from_pylist([row | {"jpg": b"\xff", "extra": {"a": None, "b": 1}} for row in ROWS])
    pq.write_table(table, place / "p.parquet", row_group_size=3)
    data = place / "dataset" / "data"
    data.mkdir(parents=True)
    pq.write_table(table, data / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 1), data / "test-00000-of-00001.parquet")
    return place


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """Serves the folder, with the ranges that reading a part of a parquet file takes."""
    handler = partial(Ranges, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Ranges(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, asked = path.read_bytes(), self.headers.get("Range")
        first, last = 0, len(data) - 1
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *args: object) -> None:
        pass


def prompts(reading: Reading) -> list[str]:
    return [row["prompt"] for row in reading]


@pytest.mark.parametrize("name", ["p.txt", "plain", "p.jsonl", "p.jsonl.gz", "p.csv", "p.parquet", "p.j*l", "dataset"])
def test_every_kind_gives_the_same_prompts(folder: Path, name: str) -> None:
    """A folder also holds the first row again, as its test split, whose file comes first by name."""
    found = list(Reading(Source(str(folder / name), id=None, duplicates="keep")))
    expected = [TEXTS[0], *TEXTS] if name == "dataset" else TEXTS
    assert [row["prompt"].strip() for row in found] == [text.strip() for text in expected]
    assert [row["id"] for row in found] == [f"p{number:06d}" for number in range(1, len(expected) + 1)]


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl.gz", "p.csv", "p.parquet"])
def test_a_url(server: str, folder: Path, name: str) -> None:
    reading = Reading(Source(f"{server}/{name}", duplicates="keep"))
    assert prompts(reading) == prompts(Reading(Source(str(folder / name), duplicates="keep")))


@pytest.mark.parametrize("path", ["nowhere://x/p.txt", "http://[::1/p.txt", "github://x/p.txt", "memory://p.txt"])
def test_an_address_that_nobody_can_open(path: str) -> None:
    """Each kind of place has a package of its own, with errors of its own."""
    with pytest.raises(InputError, match=r"cannot be read|is no address"):
        list(Reading(Source(path)))


def test_a_url_that_is_not_there(server: str) -> None:
    with pytest.raises(InputError, match=r"nothing\.parquet: cannot be read") as caught:
        list(Reading(Source(f"{server}/nothing.parquet")))
    assert "\n" not in str(caught.value)


def test_a_split_is_read_by_datasets(folder: Path) -> None:
    path = str(folder / "dataset")
    assert prompts(Reading(Source(path, split="test"))) == TEXTS[:1]
    assert len(prompts(Reading(Source(path, split="train", duplicates="keep")))) == len(TEXTS)
    whole = list(Reading(Source(path, split="test"), whole=True))
    assert whole == [ROWS[0] | {"extra": {"b": 1}, "id": "p000001"}]


def test_no_code_of_a_dataset_is_run(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="scripts are no longer supported"):
        list(Reading(Source(str(tmp_path / "data"), split="train")))
    assert not (tmp_path / "ran").exists()


def test_whole_rows_hold_what_json_has_words_for(folder: Path) -> None:
    """Of parquet neither bytes nor nulls: a struct of Arrow holds every key in every row."""
    rows = read_prompts(str(folder / "p.parquet"), "evaluate.prompts")
    assert rows[0] == ROWS[0] | {"extra": {"b": 1}, "id": "p000001"}
    assert len(rows) == len(ROWS)


def test_what_is_chosen_is_counted(folder: Path) -> None:
    """Of four, one has nsfw 0.9, one repeats the first but for spaces, one is German: one is left."""
    source = Source(str(folder / "p.parquet"), where=("nsfw < 0.5",), language="en")
    reading = Reading(source)
    assert prompts(reading) == TEXTS[:1]
    assert str(reading) == (
        "4 read: 1 kept, 1 not meeting prompts.where, 1 merged with an equal one, 1 in another language"
    )
    lengths = Reading(Source(str(folder / "p.jsonl"), min_words=4, max_characters=25))
    assert prompts(lengths) == TEXTS[1:2]
    assert str(lengths) == "4 read: 1 kept, 2 too short, 1 too long"
    assert prompts(Reading(Source(str(folder / "p.csv"), where=("cfg >= 5", "cfg != 9"), limit=1))) == TEXTS[:1]


def test_columns_that_nobody_reads(folder: Path, tmp_path: Path) -> None:
    """Those with a value, that are neither the prompt nor part of a condition."""
    path = tmp_path / "p.csv"
    path.write_text("prompt,degraded,negative_prompt\na b,,ugly\n")
    found = [Reading(Source(str(path), **options)) for options in ({}, {"where": ("negative_prompt == ugly",)})]
    assert [len(list(reading)) for reading in found] == [1, 1]
    assert [reading.unread for reading in found] == [{"negative_prompt"}, set()]


def test_the_name_of_a_file_is_never_a_url(tmp_path: Path) -> None:
    for name in ("x::memory:y.txt", "simplecache::file:z.txt", "http:a.txt"):
        (tmp_path / name).write_text("a b\n")
    assert prompts(Reading(Source(str(tmp_path), duplicates="keep"))) == ["a b"] * 3


def test_empty_prompts_are_left_out_only_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a b"}\n{"prompt": null}\n{"prompt": " "}\n')
    with pytest.raises(InputError, match=r"p\.jsonl:2: no prompt"):
        list(Reading(Source(str(path))))
    assert prompts(Reading(Source(str(path), min_words=1))) == ["a b"]


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("p.csv", "a,b\n1,2\n", {}, "p.csv: no column 'prompt': there are 'a', 'b'"),
        ("p.csv", "prompt,b\nx\n", {}, "p.csv:2: 1 fields under 2 columns"),
        ("p.csv", 'prompt\n"x\n', {}, "no CSV"),
        ("p.csv", f"prompt\n{'x' * 200_000}\n", {}, "field larger than field limit"),
        ("p.csv", "prompt,n\nx,many\n", {"where": ("n > 1",)}, "n is 'many', not comparable with 1"),
        ("p.txt", "x\n", {"column": "caption"}, "no column 'caption'"),
        ("p.txt", "x\n", {"config": "en"}, "prompts.config: only a dataset of the hub has one"),
        ("p.txt", "x\n", {"max_words": 1, "min_characters": 5}, "holds no prompt to use: 1 read: 0 kept, 1 too short"),
        ("p.json", '["x"]', {}, "not a kind of file that is read here"),
        ("p.parquet", "x", {}, "p.parquet: cannot be read"),
        ("p.jsonl.gz", "x", {}, "p.jsonl.gz: cannot be read"),
        ("p.jsonl", '{"prompt": 3}\n', {}, "3 under 'prompt' is int"),
        ("p.jsonl", '{"prompt": "\\ud800"}\n', {}, "holds what JSON has no word for"),
        ("p.jsonl", '{"prompt": "x"}\n', {"id": "uid"}, "id None: use"),
        ("p.jsonl", '{"prompt": "x", "id": true}\n', {}, "id True: use"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, text: str, options: dict[str, object], message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        list(Reading(Source(str(tmp_path / name), **options)))  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "owner/name"}, r"prompts: owner/name\[train\]: "),
        ({"path": "data/prompts.txt"}, r"prompts: no file data/prompts\.txt: check the path"),
        ({"path": "data/*"}, r"prompts: no file data/\*: check the path"),
        ({"path": "http://me:secret@127.0.0.1/p.txt"}, "a password in a URL"),
        ({"path": "p.txt", "language": "xx"}, "prompts.language xx: no language that is known here"),
        ({"path": "p.txt", "where": ("cfg",)}, "prompts.where: 'cfg': write COLUMN SIGN VALUE"),
        ({"path": "p.txt", "where": ("cfg = [1]",)}, "write COLUMN SIGN VALUE"),
        ({"path": "p.txt", "min_words": 3, "max_words": 2}, "min_words 3 is above max_words 2"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(Reading(Source(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("cfg >= 5", 5, True),
        ("cfg >= 5", "4.9", False),
        ("cfg<5", None, False),
        ("cfg < 5", float("nan"), False),
        ("model == sd 1.5", "sd 1.5", True),
        ("model != sdxl", None, True),
        ("model == null", None, True),
        ("safe == true", True, True),
        ('name == "5"', "5", True),
    ],
)
def test_conditions(text: str, value: object, holds: bool) -> None:
    condition = Filter.read(text)
    assert condition.holds({condition.column: value}, "here") is holds


def test_a_source_is_known_by_what_its_files_hold(folder: Path, tmp_path: Path) -> None:
    """Wherever they lie; and by what is asked of them."""
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((folder / "p.jsonl").read_bytes())
    known = Source(str(folder / "p.jsonl")).description()
    assert Source(str(copy)).description() == known
    assert Source(str(copy), where=("cfg > 1",)).description() == known | {"where": ["cfg > 1"]}
    copy.write_bytes(copy.read_bytes() + b'{"prompt": "one more"}\n')
    assert Source(str(copy)).description() != known
    assert Source("owner/name", split="test").description() == {"path": "owner/name", "split": "test"}


def test_languages() -> None:
    """Short English prompts stay, prompts in other languages go; the wanted one need not be English."""
    english, german = Language("en"), Language("de")
    assert all(map(english.may_be, ("a photo of a zebra", "two red cubes on a table", "portrait of an old woman")))
    others = "zwei Katzen schlafen auf dem Sofa", "красный куб на синем столе", "山上的城堡，日落，非常详细"
    assert not any(map(english.may_be, others))
    assert german.may_be(others[0])
