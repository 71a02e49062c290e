"""What real images may be, and what is said before long work of those that are none."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preference_files import encoded, picture, save

from ddspo import references
from ddspo.errors import InputError
from ddspo.images import read_image
from ddspo.references import check_references, read_references


def table(path: Path, values: list[Any], column: str = "image") -> str:
    pq.write_table(pa.table({column: pa.array(values, None if values else pa.binary())}), path)
    return str(path)


def test_images_of_a_folder_by_name(tmp_path: Path) -> None:
    """Of any sizes and kinds; hidden files, folders and other files are none."""
    for number, name in enumerate(("b.JPG", "a.png", "c.webp")):
        save(tmp_path / name, number, width=20 + number)
    (tmp_path / ".a.png").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "d.png").mkdir()
    check_references(str(tmp_path))
    found = list(read_references(str(tmp_path)))
    assert [image.shape for image in found] == [(40, 21, 3), (40, 20, 3), (40, 22, 3)]
    assert np.array_equal(found[0], picture(1, width=21))


def test_images_of_a_table(tmp_path: Path) -> None:
    """Bytes, or the struct that `datasets` writes."""
    cells = [encoded(number) for number in range(3)]
    structs = [{"bytes": cell, "path": f"{number}.png"} for number, cell in enumerate(cells)]
    for name, values in (("plain", cells), ("structs", structs)):
        place = table(tmp_path / f"{name}.parquet", values)
        check_references(place)
        found = list(read_references(place))
        assert len(found) == 3
        assert all(np.array_equal(image, picture(number)) for number, image in enumerate(found))


def bad_tables() -> dict[str, tuple[list[Any], str]]:
    good, cut = encoded(0), encoded(1)[:-300]
    strip = io.BytesIO()
    picture(0, width=200, height=4).save(strip, "PNG")
    return {
        "empty": ([], "holds no image, and a distance takes two or more"),
        "one": ([good], "holds 1 image, and a distance takes two or more"),
        "second": ([good, cut], "row 2: broken: "),
        "text": ([good, b"hello"], "row 2: broken: none of JPEG, PNG, WEBP, GIF, BMP"),
        "null": ([good, None], "row 2: None in place of an image file's bytes"),
        "strings": (["a.png", "b.png"], "row 1: 'a.png' in place of"),
        "numbers": ([1, 2], "row 1: 1 in place of"),
        "path": ([{"bytes": None, "path": "a.png"}] * 2, "row 1: {'bytes': None, 'path': 'a.png'} in place of"),
        "strip": ([good, strip.getvalue()], "row 2: 200 x 4 is no picture"),
    }


@pytest.mark.parametrize("name", bad_tables())
def test_what_is_said_of_a_table(name: str, tmp_path: Path) -> None:
    values, message = bad_tables()[name]
    place = table(tmp_path / "r.parquet", values)
    with pytest.raises(InputError) as caught:
        check_references(place)
    assert str(caught.value).startswith(f"evaluate.references: {place}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_said_of_a_place(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    table(whole, [encoded(0)] * 3)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-50])
    content = bytearray(whole.read_bytes())
    content[4:40] = b"\xff" * 36
    (tmp_path / "flipped.parquet").write_bytes(content)
    table(tmp_path / "column.parquet", [encoded(0)] * 3, "picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "bad" / name).write_bytes(encoded(0)[: 300 if name == "b.png" else None])
    for name, message in (
        ("nowhere", "no file or folder"),
        ("cut.parquet", "no whole parquet file"),
        ("flipped.parquet", "damaged after row 0"),
        ("column.parquet", "no column image but picture"),
        ("empty", "holds no image"),
        ("bad", "b.png: broken"),
    ):
        with pytest.raises(InputError, match=rf"^evaluate\.references: .*{message}") as caught:
            check_references(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_of_many_only_some_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five with at most two decoded these are numbers 1 and 4; the second is cut, which its head does not show."""
    decoded = []

    def read(source: bytes) -> np.ndarray:
        decoded.append(source)
        return read_image(source)

    monkeypatch.setattr(references, "DECODED", 2)
    monkeypatch.setattr(references, "read_image", read)
    cells = [encoded(number) for number in range(5)]
    cells[1] = cells[1][:-300]
    check_references(table(tmp_path / "r.parquet", cells))
    assert decoded == [cells[0], cells[3]]
    with pytest.raises(InputError, match="row 3: broken"):
        check_references(table(tmp_path / "r.parquet", [*cells[:2], b"x", *cells[3:]]))
