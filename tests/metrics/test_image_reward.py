"""ImageReward on a tiny BLIP under its authors' names, against their two encoders written down by hand."""

from pathlib import Path
from string import ascii_lowercase

import pytest
import torch
from clip_networks import LONG, PROMPTS, photographs, scores_of
from torch.nn.functional import conv2d, gelu, layer_norm, scaled_dot_product_attention

from ddspo.errors import InputError
from ddspo.metrics.image_reward import MEAN, STD, ImageReward
from ddspo.pixels import clip_pixels

WIDTH, TEXT, SIDE, PATCH, LAYERS = 128, 192, 12, 4, 2
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ascii_lowercase, *(f"##{each}" for each in ascii_lowercase)]
VOCABULARY = len(WORDS) + 2
"""The authors add [DEC] and [ENC] to BERT's words."""
ENC = VOCABULARY - 1
NAME = "ImageReward.pt"


def tokens_of(prompt: str) -> list[int]:
    """[CLS], one token a letter, at most 33 of them, and [SEP]."""
    pieces = [piece for word in prompt.split() for piece in [word[0], *(f"##{letter}" for letter in word[1:])]]
    return [2, *(WORDS.index(each) for each in pieces[:33]), 3]


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file, at tiny sizes."""
    found: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, WIDTH),
        "blip.visual_encoder.pos_embed": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "blip.visual_encoder.patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "blip.visual_encoder.patch_embed.proj.bias": (WIDTH,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (VOCABULARY, TEXT),
        "blip.text_encoder.embeddings.position_embeddings.weight": (40, TEXT),
    }
    linear = {"blip.vision_proj": (8, WIDTH), "blip.text_proj": (8, TEXT), "mlp.layers.0": (4, TEXT)}
    linear["mlp.layers.7"] = (1, 4)
    norms = {"blip.visual_encoder.norm": WIDTH, "blip.text_encoder.embeddings.LayerNorm": TEXT}
    for number in range(LAYERS):
        image, text = f"blip.visual_encoder.blocks.{number}.", f"blip.text_encoder.encoder.layer.{number}."
        norms |= {f"{image}norm1": WIDTH, f"{image}norm2": WIDTH, f"{text}output.LayerNorm": TEXT}
        linear |= {f"{image}attn.qkv": (3 * WIDTH, WIDTH), f"{image}attn.proj": (WIDTH, WIDTH)}
        linear |= {f"{image}mlp.fc1": (2 * WIDTH, WIDTH), f"{image}mlp.fc2": (WIDTH, 2 * WIDTH)}
        linear |= {f"{text}intermediate.dense": (2 * TEXT, TEXT), f"{text}output.dense": (TEXT, 2 * TEXT)}
        for attention, other in (("attention", TEXT), ("crossattention", WIDTH)):
            linear |= {f"{text}{attention}.self.query": (TEXT, TEXT), f"{text}{attention}.output.dense": (TEXT, TEXT)}
            linear |= {f"{text}{attention}.self.{name}": (TEXT, other) for name in ("key", "value")}
            norms[f"{text}{attention}.output.LayerNorm"] = TEXT
    found |= {f"{name}.weight": shape for name, shape in linear.items()}
    found |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    return found | {f"{name}.{kind}": (width,) for name, width in norms.items() for kind in ("weight", "bias")}


def random_weights() -> dict[str, torch.Tensor]:
    """Patches and positions are so small that a norm's 1e-6 matters: 1e-5, transformers' own, gives another score."""
    random = torch.Generator().manual_seed(0)
    small = ("cls_token", "pos_embed", "patch_embed")
    found = {
        name: torch.randn(shape, generator=random) * (0.001 if any(each in name for each in small) else 0.2)
        for name, shape in shapes().items()
    }
    for name, each in found.items():
        each += "norm" in name.lower() and name.endswith("weight")
    return found | {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}


def saved(folder: Path, weights: dict[str, torch.Tensor]) -> ImageReward:
    torch.save(weights, folder / NAME)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return ImageReward(str(folder), tokenizer=str(folder))


class Authors:
    """Their image encoder, a pre-norm ViT, and their text encoder, a post-norm BERT that looks at the image."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights

    def reward(self, pixels: torch.Tensor, tokens: list[int]) -> float:
        """(head(state of the first token) - mean) / deviation, of an image [3, side, side]."""
        state = self.text(tokens, self.image(pixels))[0]
        for number in (0, 7):
            state = self.linear(f"mlp.layers.{number}", state)
        return (float(state) - 0.16717362830052426) / 1.0333394966054072

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        start = "blip.visual_encoder."
        w = {name.removeprefix(start): each for name, each in self.weights.items() if name.startswith(start)}
        grid = conv2d(pixels[None], w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
        x = torch.cat([w["cls_token"][0], grid[0].flatten(1).T]) + w["pos_embed"][0]
        for number in range(LAYERS):
            each = f"{start}blocks.{number}."
            q, k, v = self.linear(f"{each}attn.qkv", self.norm(f"{each}norm1", x, 1e-6)).chunk(3, -1)
            x = x + self.linear(f"{each}attn.proj", attended(q, k, v))
            y = gelu(self.linear(f"{each}mlp.fc1", self.norm(f"{each}norm2", x, 1e-6)))
            x = x + self.linear(f"{each}mlp.fc2", y)
        return self.norm(f"{start}norm", x, 1e-6)

    def text(self, tokens: list[int], image: torch.Tensor) -> torch.Tensor:
        """Without padding, which nothing looks at."""
        start = "blip.text_encoder."
        words = self.weights[f"{start}embeddings.word_embeddings.weight"][tokens]
        places = self.weights[f"{start}embeddings.position_embeddings.weight"][: len(tokens)]
        x = self.norm(f"{start}embeddings.LayerNorm", words + places, 1e-12)
        for number in range(LAYERS):
            each = f"{start}encoder.layer.{number}."
            for name in ("attention", "crossattention"):
                seen = x if name == "attention" else image
                q, k, v = (
                    self.linear(f"{each}{name}.self.{part}", from_)
                    for part, from_ in (("query", x), ("key", seen), ("value", seen))
                )
                y = self.linear(f"{each}{name}.output.dense", attended(q, k, v))
                x = self.norm(f"{each}{name}.output.LayerNorm", x + y, 1e-12)
            y = self.linear(f"{each}output.dense", gelu(self.linear(f"{each}intermediate.dense", x)))
            x = self.norm(f"{each}output.LayerNorm", x + y, 1e-12)
        return x

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name: str, x: torch.Tensor, least: float) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], least)


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention in heads of 64 numbers, every place to every other."""
    heads = (each.unflatten(-1, (-1, 64)).transpose(0, 1) for each in (q, k, v))
    return scaled_dot_product_attention(*heads).transpose(0, 1).flatten(1)


def test_the_reward_by_hand(tmp_path: Path) -> None:
    """Texts of other lengths in one batch, one of them cut at 35 tokens, its end token kept."""
    weights, prompts = random_weights(), [PROMPTS[1], LONG, PROMPTS[2]]
    assert [len(tokens_of(prompt)) for prompt in prompts] == [12, 35, 3]
    reference = Authors(weights)
    expected = [
        reference.reward(pixels, tokens_of(prompt))
        for pixels, prompt in zip(clip_pixels(photographs(), SIDE, round), prompts, strict=True)
    ]
    assert scores_of(saved(tmp_path, weights), photographs(), prompts) == pytest.approx(expected, abs=1e-4)


def test_the_first_token_is_cls(tmp_path: Path) -> None:
    """With BLIP's own [ENC] there, as its question answering wants it, the reward is another."""
    weights, image, prompt = random_weights(), photographs()[2], PROMPTS[0]
    (found,) = scores_of(saved(tmp_path, weights), [image], [prompt])
    (pixels,) = clip_pixels([image], SIDE)
    tokens, reference = tokens_of(prompt), Authors(weights)
    assert found == pytest.approx(reference.reward(pixels, tokens), abs=1e-4)
    assert abs(found - reference.reward(pixels, [ENC, *tokens[1:]])) > 0.01


def test_mean_and_deviation_are_those_of_the_authors() -> None:
    assert (MEAN, STD) == (0.16717362830052426, 1.0333394966054072)


def test_capitals_are_read_as_small_letters(tmp_path: Path) -> None:
    metric = saved(tmp_path, random_weights())
    images = photographs()[:1] * 2
    one, other = scores_of(metric, images, ["a red cat", "A Red CAT"])
    assert one == pytest.approx(other, abs=1e-5)


def test_neither_the_batch_nor_the_order_matters(tmp_path: Path) -> None:
    images, prompts = photographs(), [PROMPTS[0], LONG, PROMPTS[2]]
    metric = saved(tmp_path, random_weights())
    together = scores_of(metric, images, prompts)
    assert len(set(together)) == 3
    assert together == pytest.approx(scores_of(metric, images[::-1], prompts[::-1])[::-1], abs=1e-4)
    alone = [scores_of(metric, [image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blip.visual_encoder.pos_embed", "no BLIP"),
        ("blip.visual_encoder.blocks.1.attn.qkv.bias", "qkv.bias is missing"),
        ("blip.text_encoder.encoder.layer.0.crossattention.output.dense.weight", "dense.weight is missing"),
        ("mlp.layers.7.weight", "do not lead from 192 numbers to one"),
    ],
)
def test_weights_that_are_missing_are_one_line(name: str, message: str, tmp_path: Path) -> None:
    weights = random_weights()
    del weights[name]
    metric = saved(tmp_path, weights)
    with pytest.raises(InputError, match=message) as caught:
        scores_of(metric, photographs(), PROMPTS)
    assert "\n" not in str(caught.value)


def test_without_a_vocabulary(tmp_path: Path) -> None:
    metric = saved(tmp_path, random_weights())
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(InputError, match="reads every word alike, because its vocabulary is missing"):
        scores_of(metric, photographs(), PROMPTS)
