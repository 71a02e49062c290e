"""Prompts of benchmarks: which files, which rows, what is kept, and what is said when they cannot be had."""

import hashlib
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ddspo.downloads import Download, cache
from ddspo.errors import InputError
from ddspo.prompts import benchmarks
from ddspo.prompts.benchmarks import BENCHMARKS
from ddspo.prompts.reading import Reading, read_prompts
from ddspo.prompts.source import Source

DATA = next((each / "shared/data" for each in Path(__file__).parents if (each / "shared/data").is_dir()), None)
MADE = {
    "parti": 'Prompt\tCategory\tChallenge\tNote\n"O" painted\tArts\tBasic\t\na "b\tFood & Beverage\tBasic\tx\n',
    "drawbench": 'Prompts,Category\nA red car.,Colors\n"One cat, and ""one"" dog.",Gary Marcus et al. \n',
    "dpg": 'item_id,text,keywords,question\n7,"a, b",x,one?\n7,"a, b",x,two?\nwhoops1,c\u00e9,y,three?\n',
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of small files, in a cache of their own; gives its address."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "web"
    folder.mkdir()
    for name, text in MADE.items():
        (folder / name).write_text(text, encoding="utf-8")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def serve(monkeypatch: pytest.MonkeyPatch, name: str, address: str, digest: str, *, git: bool = False) -> None:
    """A benchmark of one small file in place of its own, read in the same way."""
    (file,) = BENCHMARKS[name]
    suffix = Path(file.download.url).suffix
    download = Download(f"{address}/{name}", digest, 10_000, git=git)
    monkeypatch.setattr(Download, "_place", property(lambda self: cache() / f"{self.sha256[:16]}{suffix}"))
    monkeypatch.setitem(benchmarks.BENCHMARKS, name, (file._replace(download=download),))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_table_between_tabs_keeps_its_quotes(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, "parti", asked, sha256(MADE["parti"]))
    assert read_prompts("benchmark://parti", "evaluate.prompts") == [
        {"id": "p000001", "prompt": '"O" painted', "tag": "Arts", "challenge": "Basic"},
        {"id": "p000002", "prompt": 'a "b', "tag": "Food & Beverage", "challenge": "Basic"},
    ]
    assert [row["id"] for row in read_prompts("benchmark://parti/food & beverage", "x")] == ["p000001"]


def test_a_table_between_commas(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, "drawbench", asked, sha256(MADE["drawbench"]))
    found = read_prompts("benchmark://drawbench", "evaluate.prompts")
    assert [(row["prompt"], row["tag"]) for row in found] == [
        ("A red car.", "Colors"),
        ('One cat, and "one" dog.', "Gary Marcus et al."),
    ]
    with pytest.raises(InputError, match=r"^evaluate\.prompts: drawbench has no tag 'Colour': did you mean Colors\?$"):
        read_prompts("benchmark://drawbench/Colour", "evaluate.prompts")


def test_prompts_with_ids_and_a_digest_of_git(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row for each id, however many questions it has; the digest is that of `git hash-object`."""
    content = MADE["dpg"].encode()
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    serve(monkeypatch, "dpg", asked, digest, git=True)
    assert read_prompts("benchmark://dpg", "evaluate.prompts") == [
        {"id": "7", "prompt": "a, b"},
        {"id": "whoops1", "prompt": "c\u00e9"},
    ]
    with pytest.raises(InputError, match=r"dpg has no tag 'x': it has none"):
        read_prompts("benchmark://dpg/x", "evaluate.prompts")


def test_another_file_than_was_published(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for git in (False, True):
        serve(monkeypatch, "dpg", asked, "0" * 40, git=git)
        with pytest.raises(InputError, match="sends another file than was published") as caught:
            read_prompts("benchmark://dpg", "evaluate.prompts")
        assert "\n" not in str(caught.value)


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    serve(monkeypatch, "dpg", "http://127.0.0.1:9", "0" * 40)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/dpg: not fetched .*: check the network") as caught:
        list(Reading(Source("benchmark://dpg")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("benchmark://genevall", r"no benchmark 'genevall': did you mean geneval\?"),
        ("benchmark://", r"no benchmark '': one of dpg, drawbench, geneval, parti, t2i_compbench"),
        ("benchmark://hpd_v2", r"no benchmark 'hpd_v2'"),
    ],
)
def test_unknown_names(path: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^evaluate.prompts: {message}"):
        read_prompts(path, "evaluate.prompts")


@pytest.mark.parametrize("option", ["config", "revision", "split"])
def test_a_benchmark_is_no_dataset(option: str) -> None:
    source = Source("benchmark://geneval", **{option: "x"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"prompts.{option}: only a dataset of the hub has one"):
        list(Reading(source))


def test_every_address_names_a_commit_and_a_digest() -> None:
    for files in BENCHMARKS.values():
        for file in files:
            commit = file.download.url.removeprefix("https://raw.githubusercontent.com/").split("/")[2]
            for each in (commit, file.download.sha256):
                assert len(each) in (32, 40)
                assert set(each) <= set("0123456789abcdef")


def test_the_digests_are_those_of_the_published_files() -> None:
    """Of those that lie beside the repository; the others were compared with the repositories by hand."""
    if DATA is None:
        pytest.skip("needs the published prompts beside the repository, in ../shared/data")
    here = {"evaluation_metadata.jsonl": DATA / "geneval_metadata.jsonl"}
    here |= {path.name: path for path in (DATA / "t2i_compbench").iterdir()}
    for file in (*BENCHMARKS["geneval"], *BENCHMARKS["t2i_compbench"]):
        content = here[file.download.name].read_bytes()
        assert hashlib.sha256(content).hexdigest().startswith(file.download.sha256)
        assert len(content) <= file.download.largest


def test_the_published_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """553 rows of six tags, and 2400 of eight."""
    if DATA is None:
        pytest.skip("needs the published prompts beside the repository, in ../shared/data")
    here = {"evaluation_metadata.jsonl": DATA / "geneval_metadata.jsonl"}
    here |= {path.name: path for path in (DATA / "t2i_compbench").iterdir()}
    monkeypatch.setattr(Download, "path", lambda self: here[self.name])
    geneval = read_prompts("benchmark://geneval", "x")
    assert len(geneval) == 553
    assert geneval[0] == {
        "tag": "single_object",
        "include": [{"class": "bench", "count": 1}],
        "prompt": "a photo of a bench",
        "id": "p000001",
    }
    tags = Counter(row["tag"] for row in read_prompts("benchmark://t2i_compbench", "x"))
    assert tags == dict.fromkeys(benchmarks._CATEGORIES, 300)
    assert len(read_prompts("benchmark://t2i_compbench/color,3D_spatial", "x")) == 600
    assert Source("benchmark://geneval").description() != Source("benchmark://t2i_compbench").description()


def test_an_alignment_source_takes_its_options(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, "parti", asked, sha256(MADE["parti"]))
    reading = Reading(Source("benchmark://parti", where=("challenge == Basic",), limit=1))
    assert list(reading) == [{"id": "p000001", "prompt": '"O" painted'}]
