"""Votes on a small run made by hand: what is kept, what the page may know, who may vote; and the page in a browser."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from chromium import Chromium
from PIL import Image
from typer.testing import CliRunner

from ddspo import cli
from ddspo.errors import InputError
from ddspo.files import write_rows, write_text
from ddspo.manifest import Manifest
from ddspo.pages.ballot import SIDES, Ballot
from ddspo.pages.vote import Server, serving
from ddspo.preferences._rows import Found
from ddspo.preferences.table import Table
from ddspo.rows import Row, read_rows
from ddspo.run_folder import RunFolder

HOSTILE = "</script><img src=x onerror=alert(1)> \u202etfel\u202c {{ 7 * 7 }} \U0001f600 &amp;"
PROMPTS = ("a red circle", "a green square", HOSTILE)
IMAGES = 2
PAIRS = len(PROMPTS) * IMAGES


def evaluated(path: Path, prompts: tuple[str, ...] = PROMPTS) -> RunFolder:
    """A run of so many prompts, two images each, of one colour an image."""
    run = RunFolder(path)
    for model in ("base", "aligned"):
        rows = []
        for item, prompt in enumerate(prompts):
            for index in range(IMAGES):
                name = f"{item:05d}_{index}.png"
                rows.append({"item": item, "index": index, "seed": 100 * item + index, "prompt": prompt})
                rows[-1] |= {"file_name": name, "scale": 3.0}
                (run.images / model).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), colour(model, item, index)).save(run.images / model / name)
        write_rows(drawn(run, model), rows)
    write_text(run.recipe, "name: small\n")
    return run


def drawn(run: RunFolder, model: str) -> Path:
    return run.images / model / "metadata.jsonl"


def colour(model: str, item: int, index: int) -> tuple[int, int, int]:
    return (255 if model == "aligned" else 0, 10 * item, 10 * index)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return evaluated(tmp_path / "small")


def prefer(ballot: Ballot, verdict: str) -> None:
    """Vote for a model, or a tie, where the ballot stands."""
    place = ballot.state()["place"]
    sides = {ballot.comparisons[place].model(side): side for side in SIDES}
    assert ballot.vote(place, sides.get(verdict, verdict))


# What is voted on, and what is kept


def test_every_prompt_comes_once_before_any_comes_again(run: RunFolder) -> None:
    """In the same order whatever the order of the file, and not in that of the prompts."""
    order = [(one.index, one.item) for one in Ballot.open(run.path).comparisons]
    assert [index for index, _ in order] == [0, 0, 0, 1, 1, 1]
    assert {item for _, item in order[:3]} == {0, 1, 2}
    for model in ("base", "aligned"):
        write_rows(drawn(run, model), reversed(read_rows(drawn(run, model))))
    assert [(one.index, one.item) for one in Ballot.open(run.path).comparisons] == order


def test_sides_are_fair_and_stay(tmp_path: Path) -> None:
    """Of 200 fair draws 100 ± 4 standard deviations of sqrt(200) / 2 = 7.1 are on the left."""
    run = evaluated(tmp_path / "large", tuple(f"prompt {number}" for number in range(100)))
    comparisons = Ballot.open(run.path).comparisons
    left = [one.model("left") for one in comparisons]
    assert all({one.model("left"), one.model("right")} == {"base", "aligned"} for one in comparisons)
    assert abs(left.count("aligned") - 100) < 29
    assert left == [one.model("left") for one in Ballot.open(run.path).comparisons]
    assert sorted(one.item for one in comparisons[:100]) == list(range(100)) != [one.item for one in comparisons[:100]]


def test_votes_become_a_preference_dataset_and_ties_are_kept_apart(run: RunFolder) -> None:
    ballot = Ballot.open(run.path)
    for verdict in ("aligned", "tie", "base"):
        prefer(ballot, verdict)
    first, second, third = ballot.comparisons[:3]
    rows = read_rows(run.votes)
    assert [row["prompt"] for row in rows] == [first.prompt, third.prompt]
    assert [row["chosen"] for row in rows] == [first.images["aligned"], third.images["base"]]
    assert [row["rejected"] for row in rows] == [first.images["base"], third.images["aligned"]]
    for row in rows:
        pixels = [np.asarray(Image.open(run.path / row[key]))[0, 0] for key in ("chosen", "rejected")]
        assert [row["seed"]] * 2 == [10 * int(green) + int(blue) // 10 for _, green, blue in pixels]
    (tie,) = read_rows(run.ties)
    assert tie == {"id": second.id, "seed": second.seed, "prompt": second.prompt, **second.images, "number": 2}


def test_ddspo_import_reads_the_votes(run: RunFolder) -> None:
    """Of the rows that `ddspo import` finds in votes.jsonl, win and lose are the images that were preferred or not."""
    ballot = Ballot.open(run.path)
    for verdict in ("aligned", "tie", "base"):
        prefer(ballot, verdict)
    table, source = Table(), str(run.votes)
    table.check(source)
    found = [pair for row in table.rows(source) if isinstance(row, Found) for pair in table.pairs(row)]
    first, _, third = ballot.comparisons[:3]
    assert [pair.prompt for pair in found] == [first.prompt, third.prompt]
    pixels = [[tuple(np.asarray(side.read())[0, 0]) for side in pair.sides] for pair in found]
    assert pixels == [
        [colour("aligned", first.item, first.index), colour("base", first.item, first.index)],
        [colour("base", third.item, third.index), colour("aligned", third.item, third.index)],
    ]


def test_undo_takes_back_the_last_vote_of_either_kind(run: RunFolder) -> None:
    ballot = Ballot.open(run.path)
    ballot.undo()
    for verdict in ("tie", "aligned", "tie"):
        prefer(ballot, verdict)
    left = []
    for _ in range(4):
        ballot.undo()
        left.append((len(read_rows(run.votes)), len(read_rows(run.ties)), ballot.state()["place"]))
    assert left == [(1, 1, 2), (0, 1, 1), (0, 0, 0), (0, 0, 0)]


def test_of_two_votes_on_one_the_last_counts(run: RunFolder) -> None:
    """Whatever left them, and in whichever file; taking the vote back takes both."""
    ballot = Ballot.open(run.path)
    one = ballot.comparisons[0]
    write_rows(run.votes, [one.row("aligned") | {"number": 3}, one.row("base") | {"number": 1}])
    assert Ballot.open(run.path).verdicts() == {one.id: "aligned"}
    write_rows(run.ties, [one.row("tie") | {"number": 4}])
    assert Ballot.open(run.path).verdicts() == {one.id: "tie"}
    assert ballot.result()[0].startswith("aligned wins 50.0 %")
    ballot.undo()
    assert ballot.verdicts() == {}
    assert read_rows(run.votes) == read_rows(run.ties) == []


def test_a_vote_that_is_not_due_is_not_kept(run: RunFolder) -> None:
    ballot = Ballot.open(run.path)
    assert not ballot.vote(1, "left")
    assert ballot.vote(0, "left")
    assert not ballot.vote(0, "right")
    assert len(read_rows(run.votes)) == 1


def test_another_reader_goes_on_where_the_first_stopped(run: RunFolder) -> None:
    prefer(Ballot.open(run.path), "aligned")
    again = Ballot.open(run.path)
    assert again.state() == {"total": PAIRS, "done": 1, "place": 1, "prompt": again.comparisons[1].prompt}


def test_the_win_rate_by_hand(run: RunFolder) -> None:
    """First images: aligned, aligned, tie; second, in their own order of prompts: base, base, tie.

    Whatever the orders, each prompt's mean is over its two, and the mean of the means that of all six:
    (1 + 1 + 1/2 + 0 + 0 + 1/2) / 6 = 1/2. Wilson with p = 1/2 and n = 3 prompts, z = 1.96: half width
    z / (2 sqrt(3 + z^2)) = 1.96 / (2 x 2.6156) = 0.3747, so 12.5 to 87.5 %. After three votes, p = 5/6 and n = 3: with
    z^2 = 3.8415 the roots are (0.8333 + 0.6402 ± 1.96 sqrt(0.04630 + 0.10671)) / 2.2805 = (1.4736 ± 0.7667) / 2.2805.
    """
    ballot = Ballot.open(run.path)
    assert ballot.result() == ["no votes yet on 6 comparisons"]
    for verdict in ("aligned", "aligned", "tie"):
        prefer(ballot, verdict)
    assert ballot.result()[:2] == [
        "aligned wins 83.3 %, 95 % interval 31.0 to 98.2 %",
        "3 of 6 comparisons: aligned 2, base 0, ties 1; prompts: 3",
    ]
    for verdict in ("base", "base", "tie"):
        prefer(ballot, verdict)
    rate, counts, meaning, _ = ballot.result()
    assert rate == "aligned wins 50.0 %, 95 % interval 12.5 to 87.5 %"
    assert counts == "6 of 6 comparisons: aligned 2, base 2, ties 2; prompts: 3"
    assert "contains 50 %" in meaning


@pytest.mark.parametrize(("verdict", "place"), [("aligned", "above"), ("base", "below")])
def test_the_result_says_who_is_preferred(tmp_path: Path, verdict: str, place: str) -> None:
    """All of n = 4 prompts: the interval reaches to n / (n + z^2) = 4 / 7.84 = 0.510, just on one side of 1/2."""
    ballot = Ballot.open(evaluated(tmp_path, ("a", "b", "c", "d")).path)
    for _ in range(4):
        prefer(ballot, verdict)
    assert f"lies {place} 50 %: the {verdict} model" in ballot.result()[2]


def test_a_prompt_counts_once(tmp_path: Path) -> None:
    """One prompt aligned twice, the other base once: (1 + 0) / 2, not 2 / 3."""
    ballot = Ballot.open(evaluated(tmp_path, ("a", "b")).path)
    twice = ballot.comparisons[2].item
    for one in ballot.comparisons[:3]:
        prefer(ballot, "aligned" if one.item == twice else "base")
    assert ballot.result()[0].startswith("aligned wins 50.0 %")


def test_a_fresh_evaluation_drops_votes_on_images_that_are_gone(run: RunFolder) -> None:
    prefer(Ballot.open(run.path), "aligned")
    Manifest(run).forget(["images"])
    assert not run.votes.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: [path.unlink() for path in (run.recipe, drawn(run, "base"))], "no run there"),
        (lambda run: drawn(run, "aligned").unlink(), "no pictures of base and aligned yet: `ddspo train` draws some"),
        (lambda run: change_drawn(run, seed=7), "no image of both models has one seed"),
        (lambda run: write_rows(drawn(run, "base"), [{}]), "a damaged metadata.jsonl: run `ddspo evaluate"),
        (lambda run: change_drawn(run, prompt="x", item="1"), "no image of both models has one seed"),
        (lambda run: change_image(run, None), "no image images/aligned/None"),
        (lambda run: (run.images / "aligned" / "00001_0.png").unlink(), "no image images/aligned/00001_0.png"),
        (lambda run: change_image(run, "recipe.yaml"), "no image images/aligned/recipe.yaml"),
        (lambda run: change_image(run, "../../recipe.yaml"), "no image images/aligned/../../recipe.yaml"),
        (lambda run: change_image(run, "../" * 20 + "etc/hostname"), "no image images/aligned/../"),
        (lambda run: change_image(run, "/etc/hostname"), "no image images/aligned//etc/hostname"),
        (lambda run: write_rows(run.votes, [{"id": "00009_0"}]), "votes.jsonl:1: no vote on this run's images"),
        (lambda run: spoil_vote(run, chosen="images/base/00000_0.png"), "votes.jsonl:1: no vote on this run's images"),
        (lambda run: spoil_vote(run, number="1"), "votes.jsonl:1: no vote on this run's images"),
        (lambda run: spoil_vote(run, number=True), "votes.jsonl:1: no vote on this run's images"),
        (lambda run: write_text(run.ties, "{\n"), "ties.jsonl:1: not JSON"),
        (lambda run: write_text(run.ties, "[" * 9999), "ties.jsonl:1: JSON that cannot be read"),
        (lambda run: write_text(run.ties, '{"id": ' + "9" * 9999 + "}"), "ties.jsonl:1: JSON that cannot be read"),
        (lambda run: run.ties.write_bytes(b'{"id": "\xff"}'), "ties.jsonl:1: no UTF-8"),
    ],
)
def test_what_is_wrong_is_said(run: RunFolder, spoil: Any, message: str) -> None:
    spoil(run)
    with pytest.raises(InputError, match=re.escape(message)):
        Ballot.open(run.path)


def change_image(run: RunFolder, name: str | None) -> None:
    rows = read_rows(drawn(run, "aligned"))
    rows[1]["file_name"] = name
    write_rows(drawn(run, "aligned"), rows)


def change_drawn(run: RunFolder, **change: Any) -> None:
    """In all rows of aligned."""
    write_rows(drawn(run, "aligned"), [row | change for row in read_rows(drawn(run, "aligned"))])


def test_images_of_other_seeds_are_no_pair(run: RunFolder) -> None:
    rows = read_rows(drawn(run, "aligned"))
    write_rows(drawn(run, "aligned"), [rows[0] | {"seed": 7}, *rows[1:]])
    assert len(Ballot.open(run.path).comparisons) == PAIRS - 1


def vote_row(run: RunFolder) -> Row:
    return Ballot.open(run.path).comparisons[0].row("aligned") | {"number": 1}


def spoil_vote(run: RunFolder, **change: Any) -> None:
    write_rows(run.votes, [vote_row(run) | change])


# Runs without an evaluation


def trained(path: Path) -> RunFolder:
    """The same pictures as the end of training leaves them, one of each model and prompt."""
    run, rows = RunFolder(path), []
    for item, prompt in enumerate(PROMPTS):
        images = {model: f"samples/{model}/{item:05d}.png" for model in ("base", "aligned")}
        rows.append({"item": item, "prompt": prompt, "seed": item, "steps": None, "guidance": 3.0, **images})
        for model, name in images.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), colour(model, item, 0)).save(path / name)
    write_rows(run.samples / "samples.jsonl", rows)
    write_text(run.recipe, "name: small\n")
    return run


def test_a_run_that_is_not_evaluated_is_voted_on_by_its_last_pictures(tmp_path: Path) -> None:
    ballot = Ballot.open(trained(tmp_path).path)
    assert {one.prompt for one in ballot.comparisons} == set(PROMPTS)
    prefer(ballot, "aligned")
    (row,) = read_rows(ballot.run.votes)
    assert np.asarray(Image.open(tmp_path / row["chosen"]))[0, 0, 0] == 255
    assert ballot.result()[1] == "1 of 3 comparisons: aligned 1, base 0, ties 0; prompts: 1"


def test_once_it_is_evaluated_other_votes_stay_and_count_no_more(tmp_path: Path) -> None:
    """Nor does taking a vote back take one of these."""
    prefer(Ballot.open(trained(tmp_path).path), "aligned")
    ballot = Ballot.open(evaluated(tmp_path).path)
    assert ballot.state()["total"] == PAIRS
    assert ballot.verdicts() == {}
    prefer(ballot, "base")
    assert [row["number"] for row in read_rows(ballot.run.votes)] == [1, 2]
    ballot.undo()
    ballot.undo()
    assert [row["number"] for row in read_rows(ballot.run.votes)] == [1]


# The server, by plain requests


@pytest.fixture
def server(run: RunFolder) -> Iterator[Server]:
    with Server(Ballot.open(run.path), "127.0.0.1", 0) as made:
        Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield made
        made.shutdown()


def ask(server: Server, path: str, body: Any = None, **headers: str | None) -> tuple[HTTPResponse, bytes]:
    """A request such as the page makes, but for the headers given; `None` leaves one out."""
    own = f"127.0.0.1:{server.server_address[1]}"
    given = {"Host": own} | ({"Origin": f"http://{own}"} if body is not None else {}) | headers
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection = HTTPConnection("127.0.0.1", int(server.server_address[1]), timeout=10)
    connection.putrequest("GET" if body is None else "POST", path, skip_host=True)
    if data is not None:
        given.setdefault("Content-Length", str(len(data)))
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(data)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def test_votes_over_http(server: Server, run: RunFolder) -> None:
    answer, content = ask(server, "/vote", {"place": 0, "choice": "left"})
    assert (answer.status, json.loads(content)["place"]) == (200, 1)
    answer, content = ask(server, "/vote", {"place": 0, "choice": "right"})
    assert (answer.status, json.loads(content)["place"]) == (409, 1)
    assert len(read_rows(run.votes)) == 1
    answer, content = ask(server, "/undo", {})
    assert (answer.status, json.loads(content)["place"]) == (200, 0)
    assert json.loads(ask(server, "/result")[1]) == ["no votes yet on 6 comparisons"]


def test_the_picture_of_a_side_is_that_of_its_model(server: Server) -> None:
    for place, one in enumerate(server.ballot.comparisons):
        for side in SIDES:
            answer, content = ask(server, f"/image/{place}/{side}")
            assert answer.getheader("Content-Type") == "image/png"
            assert content == (server.ballot.run.path / one.images[one.model(side)]).read_bytes()


def test_nothing_that_the_page_gets_tells_the_side(server: Server) -> None:
    """No name of a model or a file, and headers that differ in length and time at most."""
    assert set(json.loads(ask(server, "/state")[1])) == {"total", "done", "place", "prompt"}
    script = ask(server, "/")[1].decode().split("<body>")[1]
    assert not re.search(r"base|aligned|\.png|seed", script)
    headers = [dict(ask(server, f"/image/0/{side}")[0].getheaders()) for side in SIDES]
    for one in headers:
        del one["Content-Length"], one["Date"]
    assert headers[0] == headers[1]
    (server.ballot.run.path / server.ballot.comparisons[0].images["base"]).unlink()
    answers = [ask(server, f"/image/0/{side}") for side in SIDES]
    assert sorted(answer.status for answer, _ in answers) == [200, 500]
    assert not any(b"base" in content or b"aligned" in content for _, content in answers)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::1", "", None])
def test_another_host_gets_nothing(server: Server, run: RunFolder, host: str | None) -> None:
    """A name that was made to point here (DNS rebinding) is still another's name, whatever it asks for."""
    for path in ("/", "/state", "/result", "/image/0/left"):
        assert ask(server, path, Host=host)[0].status in (400, 403)
    vote = {"place": 0, "choice": "left"}
    assert ask(server, "/vote", vote, Host=host, Origin=f"http://{host}")[0].status in (400, 403)
    assert not run.votes.exists()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", None])
def test_another_page_cannot_vote(server: Server, run: RunFolder, origin: str | None) -> None:
    for path, body in (("/vote", {"place": 0, "choice": "left"}), ("/undo", {})):
        assert ask(server, path, body, Origin=origin)[0].status == 403
    assert not run.votes.exists()


def test_a_tunnel_on_another_port_may(server: Server) -> None:
    vote = {"place": 0, "choice": "left"}
    assert ask(server, "/vote", vote, Host="localhost:9", Origin="http://localhost:9")[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/images/base/00000_0.png", "/votes.jsonl", "/image/6/left", "/image/-1/left", "/image/0/../../recipe.yaml"),
        *("/image/0/left?x=1", "/../small/recipe.yaml", "/%2e%2e/small/recipe.yaml"),
    ],
)
def test_there_is_nothing_else(server: Server, path: str) -> None:
    assert ask(server, path)[0].status in (400, 404)
    assert ask(server, "/image/0/left", {})[0].status == 404


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"3", b"{", b"\xff", b"[" * 990, b'{"place":' * 110, b"9" * 1000, {"place": 0}),
        *({"place": None, "choice": "left"}, {"place": 1e300, "choice": "left"}, b'{"place": NaN, "choice": "tie"}'),
        *({"place": True, "choice": "left"}, {"place": 0, "choice": "aligned"}, {"place": 0, "choice": ["left"]}),
    ],
)
def test_a_vote_that_makes_no_sense_is_refused(server: Server, run: RunFolder, body: Any) -> None:
    assert ask(server, "/vote", body)[0].status == 400
    assert not run.votes.exists()


@pytest.mark.parametrize("length", ["1001", "99999999999", "9" * 5000, "-1", "1e3", None])
def test_a_long_request_is_not_read(server: Server, length: str | None) -> None:
    answer, _ = ask(server, "/vote", {}, **{"Content-Length": length})
    assert answer.status == 413
    assert answer.getheader("Connection") == "close"


@pytest.mark.parametrize("damage", [b"{\n", b"\xff\n", b"[" * 9999, b"[]", b"{}", b'{"number": 1}', None])
def test_votes_changed_by_hand_are_named(
    server: Server, run: RunFolder, damage: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a status and a line, whatever is asked; the terminal has no traceback."""
    run.votes.write_bytes(damage) if damage else run.votes.mkdir()
    asked: list[tuple[str, Any]] = [("/state", None), ("/result", None), ("/undo", {})]
    for path, body in [*asked, ("/vote", {"place": 0, "choice": "left"})]:
        answer, content = ask(server, path, body)
        named = b"votes.jsonl:1: " in content or b"Is a directory" in content
        assert (answer.status, named, b"\n" in content) == (500, True, False)
    assert capfd.readouterr().err == ""


def test_where_it_listens(run: RunFolder, server: Server) -> None:
    port = int(server.server_address[1])
    assert server.url == f"http://127.0.0.1:{port}/"
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1 port {port}"):
        Server(server.ballot, "127.0.0.1", port)
    with pytest.raises(InputError, match=r"cannot listen on no\.such.host.invalid"):
        Server(server.ballot, "no.such.host.invalid", 0)
    with Server(server.ballot, "0.0.0.0", 0) as open_to_all:
        assert "0.0.0.0" not in open_to_all.url
        assert open_to_all.knows("192.168.1.5:8321")
        assert not open_to_all.knows("evil.example")


# The command


def test_the_command_ends_with_the_result(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def vote_and_interrupt(server: Server) -> None:
        prefer(server.ballot, "aligned")
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", vote_and_interrupt)
    said = CliRunner().invoke(cli.app, ["vote", str(run.path), "--port", "0"])
    assert said.exit_code == 0
    assert re.match(r"http://127\.0\.0\.1:\d+/ ", said.output)
    assert "aligned wins 100.0 %, 95 % interval 20.7 to 100.0 %" in said.output
    shown = CliRunner().invoke(cli.app, ["vote", str(run.path), "--result"])
    assert shown.output == "\n".join(Ballot.open(run.path).result()) + "\n"


def test_one_run_is_voted_on_by_one_command(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one gets a line that says who votes; the result can be read meanwhile, and later all begins anew."""
    monkeypatch.setattr(Server, "serve_forever", lambda server: None)
    command, vote = CliRunner(), ["vote", str(run.path), "--port", "0"]
    with serving(Ballot.open(run.path), "127.0.0.1", 0):
        second = command.invoke(cli.app, vote)
        assert isinstance(second.exception, InputError)
        assert f"in use by process {os.getpid()} on " in str(second.exception)
        assert "no votes yet" in command.invoke(cli.app, [*vote, "--result"]).output
    assert command.invoke(cli.app, vote).exit_code == 0


def test_a_killed_command_has_kept_every_vote(run: RunFolder) -> None:
    command = [sys.executable, "-m", "ddspo", "vote", str(run.path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline().split("/")[2].split(":")[1])
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        body = json.dumps({"place": 0, "choice": "tie"})
        connection.request("POST", "/vote", body, {"Origin": f"http://127.0.0.1:{port}"})
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGKILL)
        connection.close()
    assert Ballot.open(run.path).state()["place"] == 1


# The page in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    made = Chromium(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


TWICE = """(async () => {
  const press = () => document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  const before = performance.now();
  press();
  press();
  while (busy) await new Promise(resolve => setTimeout(resolve));
  const since = shown;
  shown = Infinity;  // however slow this machine is, the next press comes soon
  press();
  const ignored = !busy;
  shown = since;
  return ignored && since > before;
})()"""
"""Presses a key while the vote is on its way and as soon as the next pair is there; true if both were ignored."""


def shows(browser: Chromium, done: int) -> None:
    """Wait until so many votes are counted, and for long enough that a person could have looked."""
    browser.wait(f"document.getElementById('count')?.textContent === '{done} of {PAIRS}'")
    browser.wait("!busy && performance.now() - shown > SOON")


def test_the_page_by_keyboard_and_by_touch(run: RunFolder, server: Server, browser: Chromium) -> None:
    """Six comparisons: left, tie, undo, right thrice at once (one vote), reload, by touch to the last, and back."""
    comparisons = server.ballot.comparisons
    browser.open(server.url)
    shows(browser, 0)
    sides = browser.read("[...document.querySelectorAll('#pair img')].map(i => i.getAttribute('src'))")
    assert sides == ["image/0/left", "image/0/right"]
    browser.press("ArrowLeft")
    shows(browser, 1)
    assert read_rows(run.votes)[0]["chosen"] == comparisons[0].images[comparisons[0].model("left")]
    browser.press("t")
    shows(browser, 2)
    browser.press("Backspace")
    shows(browser, 1)
    assert read_rows(run.ties) == []
    assert browser.read(TWICE)
    shows(browser, 2)
    assert read_rows(run.votes)[1]["chosen"] == comparisons[1].images[comparisons[1].model("right")]
    browser.reload()
    shows(browser, 2)
    prompts = []
    browser.size(390, 844, touch=True)
    browser.wait("innerWidth === 390")
    for done, place in enumerate(("#pair button", "nav button:nth-child(2)", "nav button:nth-child(3)"), start=3):
        prompts.append(browser.read("document.getElementById('prompt').textContent"))
        browser.tap(place)
        shows(browser, done)
    assert prompts == [one.prompt for one in comparisons[2:5]]
    assert browser.read("document.documentElement.scrollWidth") == 390
    browser.tap("#look")
    browser.wait("document.getElementById('result').innerText.includes('5 of 6 comparisons')")
    browser.press("ArrowLeft")
    browser.tap("#look")
    browser.wait("document.getElementById('result').hidden")
    shows(browser, 5)
    browser.press("ArrowDown")
    browser.wait("!document.getElementById('result').hidden")
    ended = browser.read("document.getElementById('result').innerText").split("\n\n")
    assert ended == server.ballot.result()
    assert "6 of 6 comparisons" in ended[1]
    browser.press("u")
    shows(browser, 5)
    assert len(read_rows(run.votes)) + len(read_rows(run.ties)) == 5
    assert HOSTILE in [*prompts, comparisons[0].prompt, comparisons[1].prompt]
    assert browser.said == []


def test_a_closer_look_is_no_vote(server: Server, browser: Chromium) -> None:
    """The question is asked; pictures in one place take turns, and are enlarged around one point, by key and touch."""
    browser.size(390, 844, touch=True)
    browser.open(server.url)
    shows(browser, 0)
    assert "Which picture shows better what the text says?" in browser.read("document.body.innerText")
    boxes = "[...document.querySelectorAll('#pair button')].map(b => b.getBoundingClientRect())"
    assert browser.read(f"(([a, b]) => b.top >= a.bottom && a.width > 340 && a.height > 250)({boxes})")
    assert browser.read("document.documentElement.scrollHeight") == 844
    seen = "[...document.querySelectorAll('#pair button')].map(b => getComputedStyle(b).visibility).join()"
    browser.tap("#flicker")
    browser.wait(f"{seen} === 'visible,hidden'")
    browser.wait(f"{seen} === 'hidden,visible'")
    assert browser.read(f"(([a, b]) => a.top === b.top && a.height === b.height && a.height > 500)({boxes})")
    browser.press("z")
    places = "[...new Set([...document.querySelectorAll('#pair img')].map(i => i.style.transformOrigin))]"
    assert browser.read(places) == ["50% 50%"]
    browser.tap("#pair")
    browser.read("look(10, 20)")
    assert browser.read(places) == ["10% 20%"]
    assert browser.read("getComputedStyle(document.querySelector('#pair img')).scale") == "3"
    assert browser.read("state.done") == 0
    browser.press("f")
    assert browser.read(seen) == "visible,visible"
    browser.press("z")
    browser.tap("#pair button")
    shows(browser, 1)
    browser.size(1000, 800)
    assert browser.read(f"(([a, b]) => b.left >= a.right && a.top === b.top)({boxes})")
    assert browser.said == []


def test_the_page_says_when_nobody_answers_and_goes_on_with_the_next_press(server: Server, browser: Chromium) -> None:
    browser.open(server.url)
    shows(browser, 0)
    browser.offline(True)
    browser.press("ArrowLeft")
    browser.wait("document.getElementById('fault').textContent.includes('Try again')")
    browser.offline(False)
    browser.press("ArrowLeft")
    shows(browser, 1)
    assert browser.read("document.getElementById('fault').textContent") == ""
