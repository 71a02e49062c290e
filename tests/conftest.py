"""Shared fixtures: one thread, no hub, a tiny pipeline of the real classes."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("MPLCONFIGDIR", str(Path("~/.cache/matplotlib").expanduser()))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ddspo-cache-")  # each test process begins with no scores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # Accelerate warns where several processes leave it open

import hypothesis
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from ddspo.backbones.sd import SD

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
torch.set_num_threads(1)
gc.disable()  # until all tests are imported, of which nothing is garbage
hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is no mistake of the code's
hypothesis.settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Looks for garbage, of which each stage of a run has one, leave out what was imported: a million objects."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def own_accelerator() -> None:
    """Accelerate keeps one state a process; each test gets its own."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    SD.tiny().save(folder)
    return folder
