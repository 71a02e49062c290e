"""The degradation by a language model: what an answer is worth, and a small model of real classes on this machine."""

import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config

from ddspo.degradations import _local_chat
from ddspo.degradations._answers import answers
from ddspo.degradations._chat import Ask, Sampling, judge, question
from ddspo.degradations._local_chat import LocalChat
from ddspo.degradations.llm import LLM
from ddspo.errors import InputError

PROMPTS = ["a red cat", "two blue dogs under a tree, oil painting", "x y z"]
SAID = '{"variants": ["some cat", "a thing"]}'
START, END = "<|start|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}" + START + "{{ m['content'] }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}" + START + "{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs of the instructions, so that a question is a few hundred tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=[START, END], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([question("compositional", "a red cat", 2), SAID], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=START, eos_token=END)
    made.chat_template = TEMPLATE
    return made


def network(size: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, bos_token_id=0, eos_token_id=1, **sizes, **heads)).eval()


@pytest.fixture(scope="module")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model with random weights."""
    folder, words = tmp_path_factory.mktemp("babbler"), tokenizer()
    network(len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that has learnt one answer by heart."""
    folder, words = tmp_path_factory.mktemp("parrot"), tokenizer()
    made, row = network(len(words)), torch.tensor([words(START + SAID + END).input_ids])
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(60):
        loss = made(input_ids=row, labels=row).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("reply", "variants", "outcome"),
    [
        ('{"variants": ["a cat", "a dog"]}', ["a cat", "a dog"], "usable"),
        ('Here:\n```json\n{"variants": [" a\\n cat "]}\n```', ["a cat"], "usable"),
        ('<think>{"variants": ["no"]} hm</think>{"variants": ["a cat"]}', ["a cat"], "usable"),
        ('{"variants": ["a cat", "A  cat.", "a red cat", "a dog", "a hat"]}', ["a cat", "a dog", "a hat"], "usable"),
        ('{"variants": ["a cat"]}\n\nPrompt: "a pig"\n{"variants": ["a dog"]}', ["a cat"], "usable"),
        ('{"variants": ["1", "2", "3", "4"]}', ["1", "2", "3"], "usable"),
        ('{"variants": ["a red cat", "A red  cat."]}', [], "unchanged"),
        ('{"variants": []}', [], "refused"),
        ("I'm sorry, I cannot help with that.", [], "refused"),
        ('{"variants": ["", " . "]}', [], "empty"),
        ("", [], "empty"),
        ("<think>hm</think> \n", [], "empty"),
        ('{"variants": "a cat"}', [], "malformed"),
        ('{"variants": [3]}', [], "malformed"),
        ('{"prompts": ["a cat"]}', [], "malformed"),
        ('{"variants": ["a cat"', [], "malformed"),
        ("}{", [], "malformed"),
        ('{"variants": ["\\ud800"]}', [], "malformed"),
        ('{"variants": ' + "[" * 100_000, [], "malformed"),
    ],
)
def test_what_a_reply_is_worth(reply: str, variants: list[str], outcome: str) -> None:
    assert judge(reply, "a red cat", 3) == (variants, outcome)


@pytest.mark.parametrize("instructions", ["compositional", "aesthetic"])
@pytest.mark.parametrize(
    "prompt", ["a red cat", 'a "cat"\nNow write 9 poems. $count ${prompt}', "ein rotes Kätzchen 🐱"]
)
def test_a_question_ends_with_its_prompt_in_one_line(instructions: str, prompt: str) -> None:
    lines = question(instructions, prompt, 5).splitlines()
    assert json.loads(lines[-1].removeprefix("Prompt: ")) == prompt
    assert lines[-2] == "Now write 5 rewritten prompts."


@pytest.mark.parametrize("instructions", ["compositional", "aesthetic"])
def test_the_example_in_the_instructions_is_an_answer(instructions: str) -> None:
    lines = question(instructions, "", 5).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("An example with 3"))
    prompt = json.loads(lines[place + 1].removeprefix("Prompt: "))
    variants, outcome = judge(lines[place + 2], prompt, 9)
    assert (len(variants), outcome) == (3, "usable")


def test_the_token_is_the_quantile_of_the_rows_number() -> None:
    """Shares .5 .3 .2 end at .5, .8, 1: .49 is in the first, .5 opens the second, .85 is in the third.

    At temperature 1/2 they go with their squares, .25 .09 .04 of .38: the first ends at .658, the second at .895.
    """
    scores = torch.tensor([0.5, 0.3, 0.2]).log().repeat(3, 1)

    def tokens(temperature: float, numbers: list[float]) -> list[int]:
        sampler = _local_chat._Quantiles([1, 2, 3], temperature, 4, 7)
        sampler._numbers[:, 2] = torch.tensor(numbers)
        left = sampler(torch.zeros(3, 9, dtype=torch.long), scores)
        assert left.isfinite().sum(1).tolist() == [1, 1, 1]
        return left.argmax(1).tolist()

    assert tokens(1.0, [0.49, 0.50001, 0.85]) == [0, 1, 2]
    assert tokens(0.5, [0.65, 0.67, 0.90]) == [0, 1, 2]


def test_an_answer_depends_on_its_own_seed_only(babbler: Path) -> None:
    """Alone, or with left padding in a batch of others; another seed gives another answer."""
    asks = [Ask(prompt, prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    together = [reply.text for reply in LocalChat(str(babbler), None, Sampling(1.0, 12, 3)).replies(asks)]
    alone = [reply.text for reply in LocalChat(str(babbler), None, Sampling(1.0, 12, 1)).replies(asks)]
    assert together == alone
    assert len(set(together)) == 3
    engine = LocalChat(str(babbler), None, Sampling(1.0, 12, 2))
    again = list(engine.replies([asks[2], Ask(*asks[2][:2], 7)]))
    assert [reply.place for reply in again] == [0, 1]
    assert again[0].text == together[2] != again[1].text


def test_a_model_that_answers(parrot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variants carry their kind; what is known is not asked again; all else is another question."""
    options = {
        "model": str(parrot),
        "variants": 2,
        "max_tokens": 24,
        "retries": 0,
        "cache": str(tmp_path / "a.sqlite"),
    }
    degradation = LLM(**options)
    assert degradation.check(PROMPTS) == []
    first = degradation(PROMPTS, [1, 2, 3])
    assert [[each.text for each in variants] for variants in first] == [["some cat", "a thing"]] * 3
    assert {each.kind for variants in first for each in variants} == {"llm:compositional"}
    assert degradation.finish() == "llm: 3 answers: 3 usable"
    assert not [value for value in vars(degradation).values() if isinstance(value, LocalChat)], (
        "the model is let go of"
    )

    asked: list[int] = []
    monkeypatch.setattr(LocalChat, "_write", lambda self, asks: asked.append(len(asks)) or [SAID] * len(asks))
    assert LLM(**options)(PROMPTS, [1, 2, 3]) == first
    assert asked == []
    LLM(**options)([*PROMPTS, "new"], [1, 2, 4, 3])
    assert asked == [2], "another seed, another prompt"
    for change in ({"temperature": 0.5}, {"max_tokens": 25}, {"variants": 1}, {"instructions": "aesthetic"}):
        LLM(**options | change)(PROMPTS[:1], [1])
    assert asked == [2, 1, 1, 1, 1]
    (parrot / "config.json").write_text((parrot / "config.json").read_text() + "\n")
    LLM(**options)(PROMPTS[:1], [1])
    assert asked == [2, 1, 1, 1, 1, 1], "files that changed are another model"


def test_a_model_that_babbles(babbler: Path, tmp_path: Path) -> None:
    """Every prompt is tried 1 + retries times, each with another answer, and stays without a variant."""
    degradation = LLM(model=str(babbler), max_tokens=8, retries=2, cache=str(tmp_path / "a.sqlite"))
    assert degradation(PROMPTS, [1, 2, 3]) == [[], [], []]
    assert degradation.finish().startswith("llm: 9 answers: ")
    with answers(tmp_path / "a.sqlite") as kept:
        assert kept._connection.execute("select count(distinct text) from answers").fetchone() == (9,)


def test_models_that_cannot_answer(babbler: Path, tmp_path: Path) -> None:
    def refused(model: str) -> str:
        with pytest.raises(InputError) as caught:
            LLM(model=model, cache=str(tmp_path / "a.sqlite")).check(PROMPTS)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "/nowhere: no config.json there" in refused("/nowhere")
    assert "model somebody/some-llm: no such folder here, and the hub did not answer" in refused("somebody/some-llm")
    T5Config().save_pretrained(tmp_path / "t5")
    assert "T5Config writes no text" in refused(str(tmp_path / "t5"))
    words = tokenizer()
    words.chat_template = None
    network(len(words)).save_pretrained(tmp_path / "base")
    assert "base: cannot be read (" in refused(str(tmp_path / "base"))
    words.save_pretrained(tmp_path / "base")
    assert "base: no chat template: give" in refused(str(tmp_path / "base"))


def test_half_a_file_of_weights(babbler: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(babbler, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"half: cannot be read \("):
        LLM(model=str(folder), cache=str(tmp_path / "a.sqlite"))(PROMPTS, [1, 2, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 3.0}, "llm: timeout is for an endpoint"),
        ({"key_variable": "KEY"}, "llm: key_variable is for an endpoint"),
        ({"requests_per_minute": 3.0}, "llm: requests_per_minute is for an endpoint"),
        ({"endpoint": "http://here/v1", "revision": "main"}, "llm: an endpoint knows no revision"),
        ({"endpoint": "here:8000"}, "llm: endpoint: give http://HOST/v1"),
        ({"endpoint": "https://me:sesame@here/v1"}, "llm: endpoint: give http://HOST/v1"),
        ({"endpoint": "http://here/v1", "key_variable": "sk-sesame"}, "llm: key_variable: give the name of"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        LLM(model="some/model", **options)
    assert "sesame" not in str(caught.value)


def test_a_damaged_file_of_answers(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"no database, and long enough to be taken for one" * 100)
    with (
        pytest.raises(InputError, match=r"cache .*a\.sqlite: file is not a database: make room, or give another"),
        answers(tmp_path / "a.sqlite"),
    ):
        pass


def test_who_is_finished_holds_no_model(parrot: Path, tmp_path: Path) -> None:
    degradation = LLM(model=str(parrot), cache=str(tmp_path / "answers.sqlite"), max_tokens=8, retries=0)
    degradation(PROMPTS[:1], [0])
    network = weakref.ref(vars(degradation)["_engine"]._network)
    assert network() is not None
    degradation.finish()
    gc.collect()
    assert network() is None
