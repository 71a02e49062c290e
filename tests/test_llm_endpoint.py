"""The degradation by a language model behind an HTTP API, against a stand-in that behaves as badly as it is told."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ddspo.degradations import _endpoint
from ddspo.degradations.llm import LLM
from ddspo.errors import InputError
from ddspo.recipe import load
from ddspo.rows import read_rows
from ddspo.workflow import Workflow

KEY = "sesame-0123456789"
PROMPTS = [f"{count} red cats" for count in range(12)]
SEEDS = list(range(12))
SCENES = Path(__file__).parents[1] / "recipes/scenes.yaml"

Reaction = tuple[int, Any, dict[str, str]]
"""Status, body (bytes, or what becomes JSON; None hangs up), headers."""


def completion(text: str | None, **more: Any) -> Reaction:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text, **more}}]}, {}


def variants(*texts: str) -> Reaction:
    return completion(json.dumps({"variants": texts}))


def prompt_of(body: dict[str, Any]) -> str:
    return json.loads(body["messages"][0]["content"].splitlines()[-1].removeprefix("Prompt: "))


class StandIn(ThreadingHTTPServer):
    """Counts and keeps what it is asked; `react` says what it answers, given the request and which one it is."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.asked: list[dict[str, Any]] = []
        self.prompts: Counter[str] = Counter()
        self.keys: set[str | None] = set()
        self.in_flight = self.most_in_flight = 0
        self.pause = 0.0
        self.models: Reaction = (200, {"data": [{"id": "stand-in"}, {"id": "other:latest"}]}, {})
        self.react: Callable[[dict[str, Any], int], Reaction] = lambda body, tries: variants(
            f"{prompt_of(body)}, gone"
        )
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """A client that is killed in the middle of a request is what some of the tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.keys.add(self.headers["Authorization"])
        self._send(*(self.server.models if self.path == "/v1/models" else (404, "", {})))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.keys.add(self.headers["Authorization"])
            server.asked.append(body)
            server.prompts[prompt_of(body)] += 1
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            tries = server.prompts[prompt_of(body)]
        time.sleep(server.pause)
        with server.lock:
            server.in_flight -= 1
        assert self.path == "/v1/chat/completions"
        self._send(*server.react(body, tries))

    def _send(self, status: int, body: Any, headers: dict[str, str]) -> None:
        if body is None:
            self.close_connection = True
            return
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(_endpoint, "LONGEST_PAUSE", 0.02)
    with StandIn() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def llm(server: StandIn, tmp_path: Path) -> Callable[..., LLM]:
    """A degradation that asks the server."""

    def make(**options: Any) -> LLM:
        cache = str(tmp_path / "answers.sqlite")
        return LLM(**{"model": "stand-in", "endpoint": server.url, "cache": cache, "at_once": 4} | options)

    return make


def texts(found: list[list[Any]]) -> list[list[str]]:
    return [[each.text for each in variants] for variants in found]


def test_good_answers(server: StandIn, llm: Callable[..., LLM]) -> None:
    """One request a prompt, four in flight, each with its seed, its form and its length; nothing is asked twice."""
    server.pause = 0.05
    server.react = lambda body, tries: variants(f"{prompt_of(body)} {body['seed']}", "cats")
    degradation = llm(instructions="aesthetic")
    found = degradation(PROMPTS, SEEDS)
    assert set(server.prompts.values()) == {1}
    assert server.most_in_flight == 4
    assert len({body["seed"] for body in server.asked}) == 12
    for body in server.asked:
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("stand-in", 0.7, 512)
        assert body["response_format"]["json_schema"]["schema"]["required"] == ["variants"]
        assert 0 <= body["seed"] < 2**31
    seeds = {prompt_of(body): body["seed"] for body in server.asked}
    assert texts(found) == [[f"{prompt} {seeds[prompt]}", "cats"] for prompt in PROMPTS]
    assert {each.kind for variants in found for each in variants} == {"llm:aesthetic"}
    assert degradation.finish() == "llm: 12 answers: 12 usable"
    assert llm(instructions="aesthetic")(PROMPTS[::-1], SEEDS[::-1]) == found[::-1]
    assert len(server.asked) == 12


def test_answers_are_those_of_one_model(server: StandIn, llm: Callable[..., LLM]) -> None:
    """A name may come to mean another model: what the server says of it counts, or else where it is."""
    moved = server.url.replace("127.0.0.1", "localhost")
    named = [{"id": "stand-in", "root": "org/one", "created": 1}, {"id": "stand-in", "root": "org/two"}]
    for model, asked in ((named[0], 1), (named[0] | {"created": 2}, 1), (named[1], 2), ({"id": "stand-in"}, 3)):
        server.models = (200, {"data": [model]}, {})
        llm()(PROMPTS[:1], SEEDS[:1])
        assert len(server.asked) == asked
    llm(endpoint=moved)(PROMPTS[:1], SEEDS[:1])
    assert len(server.asked) == 4, "a server that tells nothing is another one elsewhere"
    server.models = (200, {"data": named[:1]}, {})
    llm(endpoint=moved)(PROMPTS[:1], SEEDS[:1])
    assert len(server.asked) == 4, "one that does may move"


BAD = {
    "malformed": completion('{"variants": ["a'),
    "refused": completion("I cannot do that."),
    "refused by its own field": completion(None, refusal="I cannot do that."),
    "nothing to take away": variants(),
    "unchanged": variants("0 Red cats."),
    "empty": completion(""),
    "null": completion(None),
    "no choices": (200, {"choices": []}, {}),
}
SORTS = {"nothing to take away": "refused", "refused by its own field": "refused", "null": "empty"}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_answer_is_asked_for_again(server: StandIn, llm: Callable[..., LLM], what: str) -> None:
    server.react = lambda body, tries: BAD[what] if tries < 3 else variants("cats")
    degradation = llm(retries=2)
    assert texts(degradation(PROMPTS[:1], [5])) == [["cats"]]
    assert len({body["seed"] for body in server.asked}) == 3
    said = degradation.finish()
    assert f"2 {SORTS.get(what, 'empty' if what == 'no choices' else what)}" in said
    assert "1 usable" in said


def test_a_prompt_without_any_good_answer_has_no_variant(server: StandIn, llm: Callable[..., LLM]) -> None:
    """Three tries for it, one for each other; later runs know all that and ask nothing."""
    server.react = lambda body, tries: completion("No.") if prompt_of(body) == PROMPTS[2] else variants("cats")
    degradation = llm(retries=2)
    assert texts(degradation(PROMPTS[:4], SEEDS[:4])) == [["cats"], ["cats"], [], ["cats"]]
    assert server.prompts == {PROMPTS[0]: 1, PROMPTS[1]: 1, PROMPTS[2]: 3, PROMPTS[3]: 1}
    assert degradation.finish() == "llm: 6 answers: 3 usable, 3 refused (such as 'No.')"
    assert texts(llm(retries=2)(PROMPTS[:4], SEEDS[:4])) == [["cats"], ["cats"], [], ["cats"]]
    assert len(server.asked) == 6


TROUBLE: dict[str, Reaction] = {
    "429": (429, {"error": "slow down"}, {"Retry-After": "0.05"}),
    "429 with a date": (429, {"error": "slow down"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "500": (500, {"error": "oh"}, {}),
    "503": (503, b"<html>", {}),
    "hangs up": (0, None, {}),
    "another page": (200, b"<html>log in</html>", {}),
    "half a body": (200, b'{"choices"', {"Content-Length": "99", "Connection": "close"}),
}


@pytest.mark.parametrize("what", TROUBLE)
def test_trouble_on_the_way_is_tried_again(server: StandIn, llm: Callable[..., LLM], what: str) -> None:
    server.react = lambda body, tries: TROUBLE[what] if tries < 3 else variants("cats")
    degradation = llm(retries=0)
    assert texts(degradation(PROMPTS[:2], [5, 6])) == [["cats"], ["cats"]]
    assert set(server.prompts.values()) == {3}
    assert len({body["seed"] for body in server.asked}) == 2, "the same question again"
    assert degradation.finish() == "llm: 2 answers: 2 usable"


def test_a_server_that_does_not_answer_in_time(server: StandIn, llm: Callable[..., LLM]) -> None:
    """Six tries, then one line; what was answered before is kept."""
    server.react = lambda body, tries: variants("cats")
    llm()(PROMPTS[:2], SEEDS[:2])
    server.pause = 0.3
    with pytest.raises(InputError) as caught:
        llm(timeout=0.05)(PROMPTS[:3], SEEDS[:3])
    message = str(caught.value)
    assert "no answer in 6 tries for '2 red cats' (ReadTimeout" in message
    assert "\n" not in message
    assert server.prompts[PROMPTS[2]] <= 6
    assert server.prompts[PROMPTS[0]] == 1


def test_when_one_request_fails_for_good_the_others_stop(server: StandIn, llm: Callable[..., LLM]) -> None:
    server.pause = 0.02
    server.react = lambda body, tries: (404, {"error": "no such model"}, {})
    with pytest.raises(InputError, match="HTTP 404"):
        llm()(PROMPTS * 20, range(240))
    assert len(server.asked) <= 8


def test_a_prompt_that_the_server_refuses(server: StandIn, llm: Callable[..., LLM]) -> None:
    """It has no variant, the others have; the refusal is no answer of the model's and is not kept."""
    server.react = lambda body, tries: (
        (400, {"error": "content policy"}, {}) if prompt_of(body) == PROMPTS[1] else variants("cats")
    )
    degradation = llm(retries=1)
    assert texts(degradation(PROMPTS[:3], SEEDS[:3])) == [["cats"], [], ["cats"]]
    assert "content policy" in degradation.finish()
    before = len(server.asked)
    server.react = lambda body, tries: variants("dogs")
    assert texts(llm(retries=1)(PROMPTS[:3], SEEDS[:3])) == [["cats"], ["dogs"], ["cats"]]
    assert len(server.asked) == before + 1


def test_a_server_that_refuses_everything(server: StandIn, llm: Callable[..., LLM]) -> None:
    server.react = lambda body, tries: (400, {"error": "temperature must be 1"}, {})
    with pytest.raises(InputError, match=r"HTTP 400: .*temperature must be 1"):
        llm(retries=3)(PROMPTS, SEEDS)
    assert 2 * _endpoint.HOPELESS <= len(server.asked) <= 2 * (_endpoint.HOPELESS + 4)


def test_a_server_that_knows_no_schema(server: StandIn, llm: Callable[..., LLM]) -> None:
    """Once it has taken a question without, it gets no more with one."""
    server.react = lambda body, tries: (
        (400, {"error": "response_format?"}, {}) if "response_format" in body else variants("cats")
    )
    assert texts(llm(at_once=1)(PROMPTS, SEEDS)) == [["cats"]] * 12
    assert len(server.asked) == 13


def test_the_rate(server: StandIn, llm: Callable[..., LLM]) -> None:
    """600 a minute are 0.1 s apart, whatever is in flight: the sixth starts 0.5 s after the first, or later."""
    degradation, began = llm(requests_per_minute=600.0), time.monotonic()
    degradation(PROMPTS[:6], SEEDS[:6])
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ((401, {"error": f"bad key {KEY}"}, {}), {"key_variable": "STAND_IN_KEY"}, "HTTP 401: "),
        ((503, {"error": "loading"}, {}), {}, "HTTP 503: "),
        (None, {"model": "stand-out"}, "llm.model stand-out: http.* has none of that name: one of stand-in, other"),
        (None, {"endpoint": "http://127.0.0.1:9/v1"}, "no answer .*: start the server or mend the address"),
        (None, {"endpoint": "http://127.0.0.1:99999/v1"}, "no answer .*: start the server or mend the address"),
        (None, {"key_variable": "NO_SUCH_KEY"}, "no such environment variable"),
    ],
)
def test_what_is_found_before_any_question(
    server: StandIn,
    llm: Callable[..., LLM],
    monkeypatch: pytest.MonkeyPatch,
    models: Reaction | None,
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setenv("STAND_IN_KEY", KEY)
    server.models = models or server.models
    with pytest.raises(InputError, match=message) as caught:
        llm(**options).check(PROMPTS)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert not server.asked


@pytest.mark.parametrize(
    "models", [(404, "", {}), (200, {"models": []}, {}), (200, {"data": []}, {}), (200, b"<html>", {})]
)
def test_a_server_need_not_list_its_models(server: StandIn, llm: Callable[..., LLM], models: Reaction) -> None:
    server.models = models
    assert llm().check(PROMPTS) == []


def test_a_run(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checking asks nothing, the key is sent and in no file, and a finished stage needs no server any more.

    Of twelve prompts one is refused four times: it is reported, and what the model said is printed.
    """
    monkeypatch.setenv("STAND_IN_KEY", KEY)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    server.react = lambda body, tries: completion("No.") if prompt_of(body) == PROMPTS[3] else variants("cats")

    def start(**options: Any) -> Workflow:
        asks = {"model": "stand-in", "endpoint": server.url, "key_variable": "STAND_IN_KEY"} | options
        given = {"llm": asks | {"cache": str(tmp_path / "a.sqlite")}}
        overrides = [f"out={tmp_path}", f"prompts={tmp_path / 'prompts.txt'}", f"degradation={json.dumps(given)}"]
        return Workflow.start(load(SCENES, overrides))

    flow = start()
    assert not server.asked
    flow.run(("degrade",))
    assert server.keys == {f"Bearer {KEY}"}
    rows = read_rows(flow.folder.prompts)
    assert [row["degraded"] for row in rows] == [[{"text": "cats", "kind": "llm:compositional"}]] * 11
    assert [row["prompt"] for row in read_rows(flow.folder.undegraded)] == [PROMPTS[3]]
    assert "llm: 15 answers: 11 usable, 4 refused (such as 'No.')" in capsys.readouterr().err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"recipe.yaml", "manifest.json", "prompts.jsonl", "a.sqlite"} <= {path.name for path in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    start(endpoint="http://127.0.0.1:9/v1", at_once=2, key_variable=None, timeout=1.0)
    with pytest.raises(InputError, match=r"begun with another degradation\.llm\.temperature"):
        start(temperature=0.5)


RUN = """
import sys
from ddspo.degradations.llm import LLM
LLM(model="stand-in", endpoint=sys.argv[1], cache=sys.argv[2], at_once=4)(sys.argv[3:], range(len(sys.argv[3:])))
"""


def test_a_killed_run_pays_for_nothing_twice(server: StandIn, llm: Callable[..., LLM], tmp_path: Path) -> None:
    """Killed without warning, it loses at most the four requests in flight; the rest is not asked again.

    The server never gives an answer twice, so that equal variants can only come from the file.
    """
    server.pause = 0.03
    server.react = lambda body, tries: variants(f"{prompt_of(body)}, {time.monotonic_ns()}")
    prompts = [f"{count} red cats" for count in range(150)]
    arguments = [sys.executable, "-c", RUN, server.url, str(tmp_path / "answers.sqlite"), *prompts]
    with subprocess.Popen(arguments, env=os.environ | {"HF_HUB_OFFLINE": "1"}) as run:
        while len(server.asked) < 20:
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    time.sleep(0.1)  # the server finishes what was in flight
    lost = len(server.asked)
    assert 20 <= lost < 150
    found = llm()(prompts, range(150))
    assert len(server.asked) - 150 <= 4
    assert max(server.prompts.values()) <= 2
    assert llm()(prompts, range(150)) == found
    assert all(len(variants) == 1 for variants in found)
