"""The hub is asked once; what it says is told in one line, and without it what is kept here counts."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from ddspo import hub as _hub
from ddspo.backbones.base import Model
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.hub import fetched, snapshot
from ddspo.model_card import licence

NAME, COMMIT = "somebody/some-model", "c" * 40


class Hub:
    """What the hub answers, and what it was asked."""

    def __init__(self, cache: Path) -> None:
        self.fault: Exception | None = None
        self.asked: list[str] = []
        self.folder = cache / "models--somebody--some-model/snapshots" / COMMIT

    def model_info(self, _: HfApi, name: str, *, revision: str | None, timeout: float) -> None:
        self.asked.append(f"{name}@{revision}")
        assert timeout <= 10
        if self.fault:
            raise self.fault

    def download(self, name: str, **_: Any) -> str:
        self.write("model_index.json")
        return str(self.folder)

    def write(self, name: str, text: str = "{}") -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)
        refs = self.folder.parents[1] / "refs"
        refs.mkdir(exist_ok=True)
        (refs / "main").write_text(COMMIT)
        return str(self.folder / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(HfApi, "model_info", lambda *args, **options: hub.model_info(*args, **options))
    monkeypatch.setattr(_hub, "snapshot_download", hub.download)
    snapshot.cache_clear()
    return hub


def said(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    """An answer of the hub, or of what is in its place."""
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} Client Error. (Request ID: x)\n\nmore", response=response)  # type: ignore[arg-type]


def test_a_process_asks_once(hub: Hub) -> None:
    assert snapshot(NAME, None) == snapshot(NAME, None) == (hub.folder, True)
    assert snapshot(NAME, None).commit == COMMIT
    assert hub.asked == [f"{NAME}@None"]


@pytest.mark.parametrize("fault", [TimeoutError("timed out"), OSError("no route to host")])
def test_without_the_hub_what_is_kept_counts(hub: Hub, fault: Exception) -> None:
    hub.fault = fault
    with pytest.raises(
        InputError, match=f"^model.path {NAME}: no such folder here, and the hub did not answer for it"
    ):
        snapshot(NAME, None)
    hub.write("model_index.json")
    assert snapshot(NAME, None) == (hub.folder, False)
    assert hub.asked == [f"{NAME}@None"] * 2


def test_a_commit_that_is_kept_needs_no_hub(hub: Hub) -> None:
    hub.write("model_index.json")
    assert snapshot(NAME, COMMIT).folder == hub.folder
    assert hub.asked == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            said(RepositoryNotFoundError, 404),
            f"^model.path {NAME}: neither here nor on the hub: check the name; if it",
        ),
        (said(GatedRepoError, 403), f"^model.path {NAME}: its owner asks for consent: give it on the model's page"),
        (said(RevisionNotFoundError, 404), f"^model.path {NAME}: it has no branch, tag or commit v9$"),
        (said(HfHubHTTPError, 503), f"^model.path {NAME}: no such folder here, and the hub did not answer for it"),
    ],
)
def test_what_the_hub_says_is_one_line(hub: Hub, fault: Exception, message: str) -> None:
    hub.fault = fault
    with pytest.raises(InputError, match=message) as caught:
        snapshot(NAME, "v9")
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_is_none(hub: Hub) -> None:
    hub.fault = ValueError("Repo id must use alphanumeric chars")
    with pytest.raises(InputError, match=r"did not answer for it .Repo id must use alphanumeric chars"):
        snapshot("some body/x", None)


def test_weights_are_those_of_the_commit(hub: Hub, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration is looked at first, without them; then they are fetched, and no pickles."""
    for path in tiny_folder.rglob("*.json"):
        shutil.copytree(path.parent, hub.folder / path.parent.relative_to(tiny_folder), dirs_exist_ok=True)
    for path in hub.folder.rglob("*.safetensors"):
        path.unlink()
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(_hub, "snapshot_download", lambda *_, **__: str(hub.folder))
    monkeypatch.setattr(
        SD.pipeline_class, "download", lambda name, **options: asked.append({"name": name} | options) or tiny_folder
    )
    SD.check(Model(NAME))
    assert asked == []
    assert SD.load(Model(NAME, revision="v1")).latent_shape == (4, 8, 8)
    assert asked[0] | {"name": NAME, "revision": COMMIT, "variant": None, "use_safetensors": True} == asked[0]

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("Could not find the necessary `safetensors` weights in {'unet/x.bin'} (variant=None)")

    monkeypatch.setattr(SD.pipeline_class, "download", fails)
    with pytest.raises(
        InputError, match=f"^model.path {NAME}: not fetched: Could not find the necessary `safetensors`"
    ):
        SD.load(Model(NAME))


def test_one_more_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(name: str, file: str, *, revision: str, etag_timeout: float) -> str:
        assert revision == COMMIT
        if file == "README.md":
            return hub.write(file, "---\nlicense: mit\n---\n")
        raise OSError("no such file")

    monkeypatch.setattr(_hub, "hf_hub_download", one)
    assert fetched(NAME, None, "nothing") is None
    assert licence(Model(NAME)) == {"license": "mit"}
    monkeypatch.setattr(_hub, "hf_hub_download", None)  # it is here now
    assert licence(Model(NAME)) == {"license": "mit"}


def test_the_licence_of_a_model_that_is_not_reached(hub: Hub) -> None:
    hub.fault = OSError("no route to host")
    assert licence(Model(NAME)) == {}
    assert len(hub.asked) == 1
