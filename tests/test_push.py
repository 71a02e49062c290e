"""`ddspo push` against a stand-in for the hub on this machine, and `ddspo export`, as commands."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from safetensors.torch import load
from test_export import ADAPTATIONS, make_run
from typer.testing import CliRunner

from ddspo.cli import app
from ddspo.errors import InputError
from ddspo.exports.base import Export
from ddspo.exports.diffusers import Diffusers
from ddspo.exports.kohya import Kohya
from ddspo.files import write_json, write_text
from ddspo.result import Result
from ddspo.stages.push import check_token, push

LORA = "pytorch_lora_weights.safetensors"


class Hub(ThreadingHTTPServer):
    """Answers the requests that an upload makes, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.reply({"name": "me", "type": "user", "auth": {}} if self.path == "/api/whoami-v2" else {})

    def do_POST(self) -> None:
        body = self.body()
        hub = self.server
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            hub.repositories[name] = asked.get("visibility") == "private"
            self.reply({"url": f"{hub.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            self.reply({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif self.path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    hub.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            self.reply({"commitUrl": f"{hub.url}/me/small/commit/1", "commitOid": "1", "success": True})

    def body(self) -> bytes:
        """Of known length, or in chunks, each after its length in hexadecimal."""
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, value: object) -> None:
        self.server.tokens.add(self.headers["Authorization"])
        data = json.dumps({"error": "no write here"} if self.server.refuses else value).encode()
        self.send_response(403 if self.server.refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, tiny_folder, ADAPTATIONS[0])
    write_json(folder / "report.json", {"models": [], "metrics": {}, "sets": {}})
    write_text(folder / "prompts.jsonl", "{}\n")
    return folder


@pytest.fixture
def api(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HfApi:
    """The real client, of which nothing but the address is the stand-in's; these tests alone may use the network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return HfApi(endpoint=hub.url, token="hf_test")


def upload(run: Path, how: Export, name: str, private: bool, api: HfApi) -> str:
    check_token(api)
    with Result.open(run).uploads(how, name) as uploads:
        return push(uploads, name, private, api)


def failure(*arguments: object) -> str:
    """The one line of a command that fails."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert isinstance(done.exception, InputError), done.exception
    assert done.stdout == ""
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_push(run: Path, hub: Hub, api: HfApi) -> None:
    """The LoRA, its card and report.json arrive byte by byte, and nothing else; nothing stays behind here."""
    before = sorted(run.rglob("*"))
    assert upload(run, Diffusers(), "me/small", True, api) == f"{hub.url}/me/small"
    assert hub.repositories == {"me/small": True}
    assert hub.files.keys() == {"README.md", LORA, "report.json"}
    assert hub.files[LORA] == (run / "aligned" / LORA).read_bytes()
    assert hub.files["report.json"] == (run / "report.json").read_bytes()
    assert "pipeline.load_lora_weights('me/small')" in hub.files["README.md"].decode()
    assert hub.tokens == {"Bearer hf_test"}
    assert sorted(run.rglob("*")) == before


def test_push_of_one_file(run: Path, hub: Hub, api: HfApi) -> None:
    upload(run / "aligned", Kohya("bf16"), "small", False, api)
    assert hub.repositories == {"me/small": False}
    assert hub.files.keys() == {"README.md", "small-kohya.safetensors", "report.json"}
    assert any(key.startswith("lora_unet_") for key in load(hub.files["small-kohya.safetensors"]))
    assert "`small-kohya.safetensors`" in hub.files["README.md"].decode()


def test_the_hub_says_no(run: Path, hub: Hub, api: HfApi) -> None:
    hub.refuses = True
    with pytest.raises(InputError, match="the hub did not take it"):
        upload(run, Diffusers(), "me/small", False, api)
    with pytest.raises(InputError, match="me/small: the hub did not take it"):
        push({"README.md": b"x"}, "me/small", False, api)
    assert hub.files == {}


def test_without_a_token(hub: Hub, api: HfApi) -> None:
    with pytest.raises(InputError, match="no token for the hub: run `hf auth login`"):
        check_token(HfApi(endpoint=hub.url))
    assert hub.tokens == set()


def test_dry_run_tells_and_sends_nothing(run: Path) -> None:
    """Offline and without a token."""
    done = CliRunner().invoke(app, ["push", str(run), "me/small", "--dry-run"])
    assert done.exit_code == 0, done.exception
    lines = done.stdout.splitlines()
    sizes = {name: int(size.replace(",", "")) for size, name in map(str.split, lines[1:4])}
    assert sizes.keys() == {"README.md", LORA, "report.json"}
    assert sizes[LORA] == (run / "aligned" / LORA).stat().st_size
    assert lines[0] == f"would upload {sum(sizes.values()):,} bytes to me/small:"
    assert lines[5] == "---"
    assert "# small" in lines


def test_what_goes_wrong_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    assert "offline mode is enabled" in failure("push", run, "me/small")
    assert "no name for a model repository" in failure("push", run, "me/../small", "--dry-run")
    assert "did you mean kohya?" in failure("push", run, "me/small", "--format", "kohia")
    assert "dtype: no such key" in failure("export", run, "--format", "diffusers", "--dtype", "fp16")
    assert "kohya.dtype: 'int8'" in failure("export", run, "--format", "kohya", "--dtype", "int8")


def test_export_as_a_command(run: Path, tmp_path: Path) -> None:
    """In a process of its own, as a user runs it."""
    out = tmp_path / "x.safetensors"
    command = [sys.executable, "-m", "ddspo", "export", str(run), "--format", "kohya", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (f"{out}\n", "", 0)
    assert any(key.startswith("lora_unet_") for key in load(out.read_bytes()))
