"""Prompts of published benchmarks: read from their public addresses when they are asked for, checked, and kept.

None of them lies in this package. Each address names a commit, and each file's digest is known.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ddspo.downloads import Download
from ddspo.errors import InputError, nearest, quoted
from ddspo.rows import Row, each_row

_RAW = "https://raw.githubusercontent.com"
_COMPBENCH = f"{_RAW}/Karine-Huang/T2I-CompBench/1b7094991a57f3c22abdd4f6e8ba6c1a15517073/examples/dataset"
_CATEGORIES = {
    "color": "1634259756dbc77d13093d907d414480",
    "shape": "37e1a276906c7ea9516cbd7ac8501be8",
    "texture": "fbb5363515b4a28009e360afaaaf389d",
    "spatial": "8707a1d7e42ce3002d95363cf55f74bd",
    "3d_spatial": "c9953597315f36a5fcb41291bb19bdc6",
    "numeracy": "dad8df141604b70ba7554bec724e3db0",
    "non_spatial": "04c56cc9ac441dc9ea6c5157652058bd",
    "complex": "1b808018b8d9916db3d47d5aa2ef1837",
}

Read = Callable[[Path], Iterable[Row]]
"""The rows of a file, as its publisher wrote them."""


class _File(NamedTuple):
    """One file of a benchmark."""

    download: Download
    read: Read


@dataclass(frozen=True)
class Benchmark:
    """The prompts of one benchmark, or those of some of its tags."""

    name: str
    tags: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str, key: str) -> "Benchmark":
        """Read `NAME` or `NAME/TAG,TAG`.

        Raises:
            InputError: There is no such benchmark; `key` is the key of the recipe.
        """
        name, _, tags = text.partition("/")
        if name not in BENCHMARKS:
            raise InputError(f"{key}: no benchmark {quoted(name)}{nearest(name, BENCHMARKS)}")
        return cls(name, tuple(tag.strip() for tag in tags.split(",") if tag.strip()))

    @property
    def identity(self) -> str:
        """Of what its files hold."""
        digests = "-".join(file.download.sha256[:4] for file in BENCHMARKS[self.name])
        return f"{self.name}@{digests}/{','.join(self.tags)}"

    def rows(self, key: str) -> Iterator[Row]:
        """Rows of `prompt`, and of `tag` and what metrics read where there is any; downloads what is missing.

        Raises:
            InputError: An address does not answer, or sends another file, or no row has one of the tags.
        """
        wanted = {tag.casefold() for tag in self.tags}
        found = [row for file in BENCHMARKS[self.name] for row in file.read(file.download.path())]
        there = {row["tag"].casefold(): row["tag"] for row in found if "tag" in row}
        for tag in self.tags:
            if tag.casefold() not in there:
                near = nearest(tag, there.values()) if there else ": it has none"
                raise InputError(f"{key}: {self.name} has no tag {quoted(tag)}{near}")
        return (row for row in found if not wanted or row["tag"].casefold() in wanted)


def _lines(path: Path, tag: str) -> Iterator[Row]:
    """One prompt a line, all of one tag."""
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.strip():
            yield {"prompt": line.strip(), "tag": tag}


def _table(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """Some columns of CSV, or of values between tabs, where quotes are text; of rows with one `id` the first."""
    seen: set[str] = set()
    with path.open(encoding="utf-8", newline="") as file:
        tabs = path.suffix == ".tsv"
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.DictReader(file)
        for values in table:
            row = {name: values[column].strip() for name, column in columns.items()}
            if "id" not in row or row["id"] not in seen:
                seen.add(row.get("id", ""))
                yield row


BENCHMARKS: dict[str, tuple[_File, ...]] = {
    "geneval": (
        _File(
            Download(
                f"{_RAW}/djghosh13/geneval/af4902f24d3ca90ebbb446dd9891a59e0f82725f/prompts/evaluation_metadata.jsonl",
                "5c48e0813e812e3c373fa5c8ed07a8f0",
                100_000,
            ),
            each_row,
        ),
    ),
    "t2i_compbench": tuple(
        _File(Download(f"{_COMPBENCH}/{tag}_val.txt", digest, 30_000), partial(_lines, tag=tag))
        for tag, digest in _CATEGORIES.items()
    ),
    "parti": (
        _File(
            Download(
                f"{_RAW}/google-research/parti/5a657978134374ce28973948331b319adef164bd/PartiPrompts.tsv",
                "fab29e41bb512a169b56acab4cf2a41d",
                150_000,
            ),
            partial(_table, columns={"prompt": "Prompt", "tag": "Category", "challenge": "Challenge"}),
        ),
    ),
    "drawbench": (  # a copy: the authors publish a sheet, which has no fixed content
        _File(
            Download(
                f"{_RAW}/Longcat2957/DrawBench-Glance-More/f6b85cba0ee8fd46389cb7f3e7074fa85e8e06c7/DrawBench.csv",
                "b6d99b3151798b34f2ac3604d3701f66",
                20_000,
            ),
            partial(_table, columns={"prompt": "Prompts", "tag": "Category"}),
        ),
    ),
    "dpg": (
        _File(
            Download(
                f"{_RAW}/TencentQQGYLab/ELLA/3c228f1dc6c4d3cad0a47493816151a419f14db3/dpg_bench/dpg_bench.csv",
                "98457fc9901943f51ff9a30367250fc292533bed",
                50_000_000,
                git=True,
            ),
            partial(_table, columns={"id": "item_id", "prompt": "text"}),
        ),
    ),
}
"""Files by the benchmark's name in a recipe."""
