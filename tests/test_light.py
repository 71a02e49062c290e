"""What a command imports: a look at what there is must not wait for the libraries that training needs."""

import subprocess
import sys
from pathlib import Path

from test_vote import evaluated

SCENES = Path(__file__).parents[1] / "recipes/scenes.yaml"
STEPS = """
import sys
from ddspo import cli

def run(*arguments):
    sys.argv = ["ddspo", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, arguments

def free_of(*libraries):
    found = [each for each in libraries if each in sys.modules]
    assert not found, found

HEAVY = "diffusers", "transformers", "peft", "datasets"
run("--help")
run("list")
free_of("torch", "accelerate", "numpy", "pyarrow", *HEAVY)
run("vote", VOTED, "--result")
free_of("torch", "accelerate", "pyarrow", *HEAVY)
from ddspo.prompts.reading import Reading
from ddspo.prompts.source import Source
assert [row["prompt"] for row in Reading(Source(TEXT))] == ["a cat", "a dog"]
free_of("torch", "accelerate", *HEAVY)
run("show", RECIPE)
free_of(*HEAVY)

import gc
from ddspo.imports import importing
assert gc.get_freeze_count() == 0
with importing():
    assert not gc.isenabled()
kept = gc.get_freeze_count()
assert kept > 10_000
assert gc.isenabled()
rubbish = [[] for _ in range(1000)]
with importing():
    pass
assert gc.get_freeze_count() == kept
"""


def test_what_commands_import(tmp_path: Path) -> None:
    """All in one process, the lightest first: what one leaves alone, none before it has imported.

    What is there when libraries were imported is never looked through for garbage; what comes later is.
    """
    run, text = evaluated(tmp_path / "small").path, tmp_path / "prompts.txt"
    text.write_text("a cat\na dog\n")
    code = f"VOTED, TEXT, RECIPE = {str(run)!r}, {str(text)!r}, {str(SCENES)!r}\n{STEPS}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no votes yet on 6 comparisons" in done.stdout
