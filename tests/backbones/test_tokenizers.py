"""A tokenizer tells words apart, belongs to its text encoder, and knows the words of the prompts; else it is said."""

import json
import shutil
from pathlib import Path

import pytest

from ddspo import components
from ddspo.backbones._readers import Reader
from ddspo.backbones._tiny import clip_tokenizer, gemma_tokenizer, t5_tokenizer
from ddspo.backbones._tokenizers import check_tokenizer, readers_in, unknown
from ddspo.backbones.base import Backbone, Model
from ddspo.errors import InputError
from ddspo.scenes.networks import make_tokenizer

NAMES = components.names(Backbone)


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("tokenizer*"))


@pytest.fixture(params=NAMES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return components.find(Backbone, request.param).tiny()


def refused(backbone: Backbone, folder: Path) -> str:
    """The same line before and at loading, as it begins without the model's place."""
    model = Model(str(folder), max_length=backbone.max_length, resolution=16)
    with pytest.raises(InputError) as early:
        readers_in(backbone.check(model), backbone.pipeline_class, lower=backbone.lower)
    with pytest.raises(InputError) as late:
        backbone.load(model)
    assert str(early.value) == str(late.value)
    return str(early.value).removeprefix(f"model.path {folder}: ")


def test_a_vocabulary_that_is_missing(backbone: Backbone, tmp_path: Path) -> None:
    backbone.save(tmp_path / "whole")
    for part in parts(tmp_path / "whole"):
        folder = tmp_path / part.name
        shutil.copytree(tmp_path / "whole", folder)
        kinds = [folder / part.name / name for name in ("tokenizer.json", "tokenizer.model")]
        next(path for path in kinds if path.exists()).unlink()
        found = refused(backbone, folder)
        assert found.startswith((f"{part.name} reads every word alike, because its voc", f"{part.name} not loaded: "))
        assert found.endswith(": get the folder anew")


def test_a_configuration_that_is_missing(tiny_folder: Path, tmp_path: Path) -> None:
    """Without it CLIP's tokenizer has no limit, and T5's a hundred tokens more."""
    sd, sd3 = (components.find(Backbone, name) for name in ("sd", "sd3"))
    shutil.copytree(tiny_folder, tmp_path / "sd")
    (tmp_path / "sd/tokenizer/tokenizer_config.json").unlink()
    assert refused(sd.tiny(), tmp_path / "sd").startswith(
        "tokenizer reads more than the 16 tokens of its text encoder"
    )
    sd3.tiny().save(tmp_path / "sd3")
    (tmp_path / "sd3/tokenizer_3/tokenizer_config.json").unlink()
    assert refused(sd3.tiny(), tmp_path / "sd3").startswith("tokenizer_3 has 130 tokens and its text encoder 32, so")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_damaged_files(tiny_folder: Path, tmp_path: Path, name: str, text: str) -> None:
    shutil.copytree(tiny_folder, tmp_path / "sd")
    (tmp_path / "sd/tokenizer" / name).write_text(text)
    sd = components.find(Backbone, "sd")
    with pytest.raises(InputError, match=r"tokenizer not loaded: |tokenizer reads more than the 16 tokens"):
        readers_in(sd.check(Model(str(tmp_path / "sd"))), sd.pipeline_class, lower=False)


def test_a_vocabulary_of_words_alone() -> None:
    """It knows no letter, and is whole."""
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "猫</w>": 2, "犬</w>": 3}
    tokenizer = type(clip_tokenizer())(vocabulary, [], model_max_length=16)
    with pytest.raises(InputError, match="x reads every word alike"):
        check_tokenizer("x", tokenizer, {})  # bytes are what CLIP's merges begin with: these words can never be read
    t5 = type(t5_tokenizer())(vocab=[("<pad>", 0), ("</s>", 0), ("<unk>", 0), ("▁猫", -1), ("▁犬", -1)], extra_ids=0)
    check_tokenizer("x", t5, {})


def test_the_tokenizers_of_the_miniatures_and_tiny_pipelines(backbone: Backbone) -> None:
    check_tokenizer("x", make_tokenizer(), {"vocab_size": 322, "max_position_embeddings": 12})
    for reader in backbone.readers():
        check_tokenizer("x", reader.tokenizer, {})
        assert reader.unknown(["a red cube", "two cats", "x"]) == (6, [])


def test_unknown_words_are_counted_as_often_as_they_come() -> None:
    """By hand: ü, 猫 and é are no letters of these tokenizers; 9 words, 4 of them with one."""
    texts = ["a grün cat", "a 猫 grün cat", "a café"]
    for tokenizer in (clip_tokenizer(), t5_tokenizer()):
        assert Reader("x", tokenizer, 9).unknown(texts) == (9, ["grün", "猫", "grün", "café"])
    assert Reader("x", t5_tokenizer(), 9).unknown(["A CAT"]) == (2, ["A", "CAT"])
    assert Reader("x", t5_tokenizer(), 9, lower=True).unknown(["A CAT"]) == (2, [])
    assert Reader("x", gemma_tokenizer("a cat"), 9).unknown([]) == (0, [])


def test_what_is_said_of_unknown_words() -> None:
    readers = [Reader("clip", clip_tokenizer(), 9), Reader("t5", t5_tokenizer(), 9)]
    assert unknown(readers, [], "prompts") == []
    assert unknown(readers, ["a b c d"] * 5 + ["ü"], "prompts") == []
    assert unknown(readers[1:], ["a b c", "a 猫"], "prompts") == [
        "prompts: t5 does not know 20% of the words, as '猫'"
    ]
    message = (
        "^prompts: t5 knows none of the words, as '一只红色的猫': write prompts in a language that the model reads$"
    )
    with pytest.raises(InputError, match=message):
        unknown(readers[1:], ["一只红色的猫", "两只狗"], "prompts")


def test_a_recipe_with_prompts_that_the_model_cannot_read(tmp_path: Path) -> None:
    """It is refused before anything is made."""
    from ddspo.recipe import load
    from ddspo.workflow import Workflow

    components.find(Backbone, "pixart").tiny().save(tmp_path / "model")
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "кошка сидит"}) + "\n")
    tree = [f"model.path={tmp_path / 'model'}", "model.backbone=pixart", "model.max_length=24", "evaluate=null"]
    tree += [f"prompts={tmp_path / 'p.jsonl'}", f"out={tmp_path / 'runs'}"]
    recipe = load(Path(__file__).parents[2] / "recipes/scenes.yaml", tree)
    with pytest.raises(
        InputError, match=r"prompts: text_encoder \(T5EncoderModel\) knows none of the words, as 'кошка'"
    ):
        Workflow.start(recipe)
    assert not (tmp_path / "runs").exists()
