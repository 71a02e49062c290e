"""Whether the tokenizers of a model are whole, and know the words that they are to read."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from ddspo.backbones._folder import class_of, networks_of, parts_of
from ddspo.backbones._model import Found, short
from ddspo.backbones._readers import Reader, tokenizer_of
from ddspo.errors import InputError, quoted

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPACES = ("▁", "Ġ", "</w>")
OFTEN = 0.05
"""Share of unknown words from which on it is worth a line."""


def readers_in(found: Found, kind: "type[DiffusionPipeline]", *, lower: bool) -> list[Reader]:
    """What reads a prompt of a model whose weights are not loaded.

    Args:
        found: The model.
        kind: The pipeline that it is loaded as.
        lower: Whether that makes prompts lower case first.

    Raises:
        InputError: A tokenizer is missing or damaged, or of another text encoder.
    """
    parts, readers = parts_of(found.model_index), []
    for encoder, network in networks_of(found, kind).items():
        name = encoder.replace("text_encoder", "tokenizer")
        if encoder != name:
            try:
                tokenizer = tokenizer_of(class_of(*parts[name]).from_pretrained(found.folder / name))
            except Exception as error:  # every kind of tokenizer has types of its own for a file that is damaged
                raise InputError(f"{found.where}: {name} not loaded: {short(error)}: get the folder anew") from None
            check_tokenizer(f"{found.where}: {name}", tokenizer, found.config(f"{encoder}/config.json"))
            readers.append(Reader(f"{encoder} ({network.__name__})", tokenizer, 0, lower=lower))
    return readers


def check_tokenizer(where: str, tokenizer: Any, encoder: Mapping[str, Any]) -> None:
    """Refuse a tokenizer that cannot tell two words apart, or is not that of its text encoder.

    Args:
        where: How the message begins.
        tokenizer: The tokenizer.
        encoder: The configuration of the text encoder.

    Raises:
        InputError: It is one.
    """
    from transformers import CLIPTokenizer

    special = {*tokenizer.all_special_tokens, *SPACES}
    words = [*LETTERS, *islice((token for token in tokenizer.get_vocab() if token not in special), 50)]
    tokens, strange = tokenizer(words, add_special_tokens=False).input_ids, tokenizer.unk_token_id
    if len({tuple(each for each in ids if each != strange) for ids in tokens}) < 2:
        raise InputError(f"{where} reads every word alike, because its vocabulary is missing: get the folder anew")
    encoder = encoder.get("text_config", encoder)  # of one that also has eyes
    knows, takes = len(tokenizer), encoder.get("vocab_size")
    if takes is not None and knows > takes:
        raise InputError(
            f"{where} has {knows} tokens and its text encoder {takes}, so that they do not belong together"
        )
    reads, takes = tokenizer.model_max_length, encoder.get("max_position_embeddings")
    if isinstance(tokenizer, CLIPTokenizer) and takes is not None and reads > takes:
        raise InputError(
            f"{where} reads more than the {takes} tokens of its text encoder: is its tokenizer_config.json missing?"
        )


def unknown(readers: Iterable[Reader], prompts: Sequence[str], where: str) -> list[str]:
    """A line for each text encoder that often meets a word that it does not know.

    Raises:
        InputError: One knows no word at all.
    """
    lines = []
    for reader in readers:
        words, strange = reader.unknown(prompts)
        if words and len(strange) == words:
            raise InputError(
                f"{where}: {reader.encoder} knows none of the words, as {quoted(strange[0])}: write prompts in a "
                "language that the model reads"
            )
        if len(strange) > OFTEN * words:
            share = f"{len(strange) / words:.0%} of the words"
            lines.append(f"{where}: {reader.encoder} does not know {share}, as {quoted(strange[0])}")
    return lines
