"""Answers from a server that speaks OpenAI's chat completions: vLLM, Ollama, llama.cpp, or a hosted one."""

import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import httpx2
from pydantic import BaseModel, ValidationError

from ddspo.degradations._chat import Answer, Ask, Engine, Reply, Sampling
from ddspo.errors import InputError, quoted

TRIES = 6
LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most."""
TELLING = ("root", "parent", "meta")
"""What servers say of a model beside its name: vLLM where it was read from, llama.cpp its sizes.

Not `created`, which some of them make up for every answer.
"""
HOPELESS = 16
"""Refused requests without a single answer, after which the settings are to blame and not the prompts."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    choices: list[_Choice]

    @property
    def text(self) -> str:
        message = self.choices[0].message if self.choices else _Message()
        return message.content or message.refusal or ""


class _Pace:
    """Lets requests go no faster than a rate, and none at all while the server wants quiet or nobody listens."""

    def __init__(self, interval: float) -> None:
        self._interval, self._next = interval, 0.0
        self._lock, self.over = threading.Lock(), threading.Event()

    def wait(self) -> None:
        """Until it is this request's turn."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._interval
        if self.over.wait(max(0.0, turn - time.monotonic())):
            raise CancelledError

    def hold(self, seconds: float) -> None:
        """Nobody's turn comes sooner."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


@dataclass
class Endpoint(Engine):
    """A server, its model, and how it may be asked.

    Attributes:
        url: Of the API, with /v1.
        model: As the server calls it.
        key_variable: Environment variable that holds the key.
        timeout: Seconds for one answer.
        per_minute: Requests a minute, at most.
        sampling: How it writes, and how many requests are in flight.
    """

    url: str
    model: str
    key_variable: str | None
    timeout: float
    per_minute: float | None
    sampling: Sampling

    def __post_init__(self) -> None:
        self._pace = _Pace(60 / self.per_minute if self.per_minute else 0.0)
        self._knows_schema = True  # until it turns out that it does not
        self._answered = self._refused = 0

    @property
    def identity(self) -> str:
        """The model's name, and what the server says that it is; where it says nothing, the server's address."""
        rows = [row for row in self._listed if self._is(row)]
        told = {key: row[key] for row in rows[:1] for key in TELLING if row.get(key)}
        return f"endpoint {self.model}: {json.dumps(told, sort_keys=True) if told else self.url}"

    def check(self) -> None:
        """It is there, takes the key, and has the model, if it tells."""
        if self._listed and not any(map(self._is, self._listed)):
            names = [str(row["id"]) for row in self._listed]
            known = ", ".join(names[:8]) + ", ..." * (len(names) > 8)
            raise InputError(f"degradation.llm.model {self.model}: {self.url} has none of that name: one of {known}")

    def _is(self, row: Mapping[str, Any]) -> bool:
        return str(row["id"]) in (self.model, f"{self.model}:latest")

    @cached_property
    def _listed(self) -> list[Mapping[str, Any]]:
        """The models that the server lists; not every one does, and some list none."""
        try:
            with self._client() as client:
                response = client.get("models")
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise InputError(f"{self._where}: no answer ({error}): start the server or mend the address") from None
        if response.status_code in (401, 403) or response.is_server_error:
            raise self._unusable(response)
        try:
            return [dict(row) for row in response.json()["data"] if row["id"]]
        except (ValueError, KeyError, TypeError):
            return []

    def replies(self, asks: Sequence[Ask]) -> Iterator[Reply]:
        """Many at a time; where the server keeps no promise on seeds, only the kept answers make a run repeatable."""
        self._pace.over.clear()
        with self._client() as client, ThreadPoolExecutor(self.sampling.at_once) as pool:
            left, running = iter(enumerate(asks)), set[Future[Reply]]()
            try:
                while True:  # nothing more is asked until what has come is taken, so that little is ever unkept
                    free = self.sampling.at_once - len(running)
                    running |= {pool.submit(self._reply, client, *each) for each in islice(left, free)}
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                self._pace.over.set()
                pool.shutdown(cancel_futures=True)

    def _reply(self, client: httpx2.Client, index: int, ask: Ask) -> Reply:
        trouble = ""
        for number in range(TRIES):
            self._pace.wait()
            pause = min(LONGEST_PAUSE, 2.0**number) * random.uniform(0.5, 1.0)
            try:
                response = self._post(client, ask)
                if response.is_client_error and response.status_code not in (408, 429):
                    return Reply(index, self._refusal(response), written=False)
                trouble, pause = self._say(response), _asked_pause(response, pause)
                text = _Completion.model_validate_json(response.content).text
                self._answered += 1
                return Reply(index, text, written=True)
            except httpx2.RequestError as error:
                trouble = f"{type(error).__name__} {error}".strip()
            except ValidationError:
                pass  # `trouble` has what came in place of a completion
            self._pace.hold(pause)
        raise InputError(
            f"{self._where}: no answer in {TRIES} tries for {quoted(ask.prompt)} ({trouble}): "
            "the answers so far are kept; run it again to continue"
        )

    def _post(self, client: httpx2.Client, ask: Ask) -> httpx2.Response:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": ask.text}],
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_tokens,
            "seed": ask.seed,
        }
        form = {"name": "answer", "strict": True, "schema": Answer.model_json_schema()}
        if self._knows_schema:
            formed = body | {"response_format": {"type": "json_schema", "json_schema": form}}
            response = client.post("chat/completions", json=formed)
            if response.status_code not in (400, 422):
                return response
            self._pace.wait()
        response = client.post("chat/completions", json=body)
        self._knows_schema = self._knows_schema and response.status_code != 200
        return response

    def _refusal(self, response: httpx2.Response) -> str:
        """What the server has against this prompt, unless it is against all of them."""
        self._refused += 1
        hopeless = not self._answered and self._refused >= HOPELESS
        if response.status_code not in (400, 413, 422) or hopeless:
            raise self._unusable(response)
        return self._say(response)

    def _client(self) -> httpx2.Client:
        timeout = httpx2.Timeout(self.timeout, connect=10.0)
        limits = httpx2.Limits(max_connections=self.sampling.at_once)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=timeout, limits=limits)

    @property
    def _key(self) -> str:
        if self.key_variable is None:
            return ""
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise InputError(
                "degradation.llm.key_variable: no such environment variable: give the name of the one that holds the "
                "key, and export it"
            )
        return key

    def _say(self, response: httpx2.Response) -> str:
        """Status and beginning of a response; a server may quote the key, and that goes nowhere."""
        text, key = " ".join(response.text.split()), self._key
        return f"HTTP {response.status_code}: {(text.replace(key, '***') if key else text)[:200]}"

    def _unusable(self, response: httpx2.Response) -> InputError:
        return InputError(f"{self._where}: {self._say(response)}: mend the address, the model's name or the key")

    @property
    def _where(self) -> str:
        return f"degradation.llm.endpoint {self.url}"


def _asked_pause(response: httpx2.Response, otherwise: float) -> float:
    """Seconds that the server asks for; those that it gives as a date are not understood."""
    try:
        return min(LONGEST_PAUSE, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return otherwise
