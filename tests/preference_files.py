"""Small datasets of each schema, as their publishers lay them out."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file


def picture(number: int, width: int = 40, height: int = 40) -> Image.Image:
    """A picture that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(number: int, kind: str = "PNG", **size: int) -> bytes:
    buffer = io.BytesIO()
    picture(number, **size).save(buffer, kind)
    return buffer.getvalue()


def save(path: Path, number: int, **size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, **size).save(path)


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pick_a_pic(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Two files of a split, with the columns of Pick-a-Pic v2; `rows` change the defaults of each."""
    full = [
        {
            "are_different": True,
            "best_image_uid": f"u{2 * number}",
            "caption": f"prompt {number}",
            "has_label": True,
            "image_0_uid": f"u{2 * number}",
            "image_1_uid": f"u{2 * number + 1}",
            "jpg_0": encoded(2 * number, "JPEG"),
            "jpg_1": encoded(2 * number + 1, "JPEG"),
            "label_0": 1.0,
            "label_1": 0.0,
            "model_0": "one",
            "model_1": "other",
            "ranking_id": 700 + number,
            "user_id": 3,
            **row,
        }
        for number, row in enumerate(rows)
    ]
    half = -(-len(full) // 2)
    (folder / "data").mkdir(parents=True)
    for part, some in enumerate((full[:half], full[half:])):
        pq.write_table(pa.Table.from_pylist(some), folder / f"data/train-0000{part}-of-00002-abc.parquet")
    pq.write_table(pa.Table.from_pylist(full[:1]), folder / "data/test-00000-of-00001-abc.parquet")
    return folder


def hpd_v2(folder: Path) -> Path:
    """Two comparisons, the second won by its second image, and a ranking of three with a tie."""
    for number in range(4):
        save(folder / f"train/{number:08d}.jpg", number)
    for number in range(3):
        save(folder / f"test/{number:08d}.jpg", 10 + number)
    train = [
        {"prompt": "a", "file_path": ["00000000.jpg", "00000001.jpg"], "human_preference": [1, 0], "user_hash": "x"},
        {"prompt": "b", "file_path": ["00000002.jpg", "00000003.jpg"], "human_preference": [0, 1], "user_hash": "y"},
    ]
    test = [
        {"prompt": "c", "image_path": [f"{n:08d}.jpg" for n in range(3)], "rank": [2, 1, 2], "raw_annotations": []}
    ]
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "test.json").write_text(json.dumps(test))
    return folder


def hpd_v3(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    full = []
    for number, row in enumerate(rows):
        paths = {f"path{side}": f"images/{number}-{side}.jpg" for side in (1, 2)}
        for side in (1, 2):
            save(folder / paths[f"path{side}"], 2 * number + side)
        start = {"prompt": f"prompt {number}", "choice_dist": [9, 1], "confidence": 0.9, "model1": "A", "model2": "B"}
        full.append(start | paths | dict(row))
    (folder / "train.json").write_text(json.dumps(full, indent=2))
    return folder


def image_reward(folder: Path, ranks: Sequence[int], table: bool) -> Path:
    rows = []
    for number, rank in enumerate(ranks):
        path = f"images/train/train_1/{number}.webp"
        save(folder / path, number)
        rows.append(
            {
                "image_path": path,
                "prompt_id": "000864-0061",
                "prompt": "a painting",
                "classification": "Arts",
                "image_amount_in_total": len(ranks),
                "rank": rank,
                "overall_rating": 4,
            }
        )
    if table:
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata-train.parquet")
    else:
        (folder / "images/train/train_1/train_1.json").write_text(json.dumps(rows))
    return folder


def latent(number: int, shape: Sequence[int] = (4, 16, 16)) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number)).half()


def official(folder: Path, rows: Sequence[Mapping[str, Any]], shape: Sequence[int] = (4, 16, 16)) -> Path:
    (folder / "latents").mkdir(parents=True)
    full = []
    for number, row in enumerate(rows):
        start = {"id": f"{number}", "tag": "", "prompt": f"prompt {number}", "neg_prompt": f"worse {number}"}
        files = {"pos_file": f"{number}.safetensors", "neg_file": f"{number}_neg.safetensors"}
        full.append(start | files | {"all_neg_prompts": [f"worse {number}"]} | dict(row))
        for side, name in enumerate(files.values()):
            save_file({"latent": latent(2 * number + side, shape)}, folder / "latents" / name)
    lines(folder / "metadata.jsonl", full)
    return folder
