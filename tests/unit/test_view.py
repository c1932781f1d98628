"""The viewer: what it finds, what it answers, and all that it refuses."""

import http.client
import json
import re
import shutil
import socket
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
from helpers.fake_runs import fake_run, rewrite_summary

from onnxloc.cli import main
from onnxloc.errors import OptionError, RunError
from onnxloc.report.folder import Summary
from onnxloc.report.runs_page import side_table
from onnxloc.report.schema import build
from onnxloc.view import ViewServer, serve
from onnxloc.view.collection import MAX_DEPTH, Collection
from onnxloc.view.pages import MAX_COMPARED

pytestmark = pytest.mark.unit

SMALL = {"blocks": 3, "width": 16, "items": 4, "percent": 5.0, "sizes": (5.0,), "n_controls": 3}
ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
SECRET = "this is nobody's business"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs, a damaged one, a comparison, and things that must not be shown."""
    top = tmp_path_factory.mktemp("view")
    (top / "secret.txt").write_text(SECRET)
    runs = top / "runs"
    fake_run(runs / "first", **SMALL)
    fake_run(runs / "deep" / "second", **SMALL | {"seed": 1, "name": "other"})
    fake_run(runs / "damaged", **SMALL)
    (runs / "damaged" / "summary.json").write_text("{")
    fake_run(runs / "hostile", **SMALL | {"prefix": ATTACK})
    (runs / "compared").mkdir()
    (runs / "compared" / "manifest.json").write_text(
        json.dumps({"format": 1, "onnxloc": "0.1.0", "steps": [{"step": "compare"}, 3]})
    )
    (runs / "compared" / "compare.html").write_text("<p>stored</p>")
    (runs / "compared" / "linked.html").symlink_to(top / "secret.txt")
    (runs / "link").symlink_to(top)
    (runs / "linked-run").symlink_to(runs / "first")
    (runs / "web-app").mkdir()
    (runs / "web-app" / "manifest.json").write_text("{}")
    return runs


@pytest.fixture(scope="module")
def server(folder):
    with ViewServer([folder]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Answer:
    """A response: status, headers, text."""

    def __init__(self, server, target="/", method="GET", **headers):
        connection = http.client.HTTPConnection(*server.server_address, timeout=60)
        connection.putrequest(method, target, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        self.status, self.headers = response.status, response.headers
        self.text = response.read().decode()
        connection.close()


def keys(server):
    """The key of each run that can be compared, by its name."""
    text = Answer(server).text
    found = re.findall(r'name="run" value="([0-9a-f]{16})" aria-label="Compare ([^"]*)"', text)
    return {name: key for key, name in found}


class Tags(HTMLParser):
    """Every element, and the text outside scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.text, self.inside = [], {}, "", ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "a":
            self.address = dict(attrs)["href"]

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "a":
            self.links[data] = self.address
        if self.inside not in ("script", "style"):
            self.text += data


# What is found


def test_runs_are_found_and_links_are_not_followed(folder):
    found = {entry.name: entry for entry in Collection([folder]).entries().values()}
    assert list(found) == ["compared", "damaged", "deep/second", "first", "hostile"]
    assert found["first"].steps == ("localize", "ablate")
    assert found["first"].summary.localize.n_units == 48
    assert found["compared"].pages == ("compare.html",)
    assert found["compared"].summary is None
    assert "is not JSON" in found["damaged"].problem


def test_a_run_alone_and_several_folders(folder):
    alone = Collection([folder / "first"]).entries().values()
    assert [entry.name for entry in alone] == ["first"]
    two = Collection([folder / "first", folder / "deep"]).entries().values()
    assert [entry.name for entry in two] == ["deep/second", "first"]
    assert len(Collection([folder, folder]).entries()) == 5


def test_nothing_too_deep_is_looked_for(tmp_path):
    names = [f"level{i}" for i in range(MAX_DEPTH + 1)]
    fake_run(tmp_path.joinpath(*names[:MAX_DEPTH]), **SMALL)
    fake_run(tmp_path.joinpath("other", *names[1:]), **SMALL)
    found = [entry.name for entry in Collection([tmp_path]).entries().values()]
    assert found == ["/".join(names[:MAX_DEPTH])]


def test_new_runs_appear(tmp_path):
    collection = Collection([tmp_path])
    assert collection.entries() == {}
    fake_run(tmp_path / "run", **SMALL)
    assert len(collection.entries()) == 1


# What is answered


def test_the_list_says_what_each_run_is(server):
    page = Tags(Answer(server).text)
    assert set(keys(server)) >= {"first", "deep/second"}
    assert {"first", "deep/second", "compared"} <= set(page.links)
    assert "damaged" in page.text
    assert "damaged" not in page.links
    assert "is not JSON" in page.text
    for words in ("made-up-135m", "language", "pairs 0.", "localize, ablate", "2025-01-02 03:04"):
        assert words in page.text
    boxes = [attrs for tag, attrs in page.tags if attrs.get("type") == "checkbox"]
    assert len(boxes) == 3
    assert all(attrs["aria-label"].startswith("Compare ") for attrs in boxes)


def test_a_folder_without_runs_says_so(tmp_path):
    with ViewServer([tmp_path]) as server:
        assert "There is no run here yet" in server.pages.answer("/").html


def test_a_run_has_its_page(server):
    answer = Answer(server, f"/run/{keys(server)['first']}")
    assert answer.status == 200
    assert "<h1>made-up-135m</h1>" in answer.text
    assert '<a href="/">All runs</a>' in answer.text


def test_a_page_is_made_once_until_a_file_changes(tmp_path):
    run = fake_run(tmp_path / "run", **SMALL)
    with ViewServer([run]) as server:
        (key,) = Collection([run]).entries()
        first = server.pages.answer(f"/run/{key}").html
        assert server.pages.answer(f"/run/{key}").html is first
        rewrite_summary(run, lambda s: s["model"].update(name="renamed"))
        assert "<h1>renamed</h1>" in server.pages.answer(f"/run/{key}").html


def test_a_run_that_cannot_be_shown_says_why(tmp_path):
    run = fake_run(tmp_path / "run", **SMALL)
    (run / "units.parquet").unlink()
    with ViewServer([run]) as server:
        (key,) = Collection([run]).entries()
        page = server.pages.answer(f"/run/{key}")
    assert page.status == 422
    assert "units.parquet is missing" in page.html


def test_a_stored_page_is_cut_off_from_the_others(server):
    address = Tags(Answer(server).text).links["compared"]
    answer = Answer(server, address)
    assert answer.text == "<p>stored</p>"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-scripts allow-downloads;")
    assert "default-src 'none'" in policy
    assert "allow-same-origin" not in policy


def test_runs_side_by_side(server):
    chosen = keys(server)
    names = ("first", "deep/second")
    answer = Answer(server, "/compare?" + "&".join(f"run={chosen[name]}" for name in names))
    assert answer.status == 200
    said = Tags(answer.text).text
    for words in ("The runs side by side", "made-up-135m", "other", "pairs: network ablated"):
        assert words in said


def test_the_numbers_side_by_side(folder):
    raw = json.loads((folder / "first" / "summary.json").read_text())
    effect = raw["ablate"]["effects"][0]
    table = side_table({"a": build(Summary, raw, "a"), "b": build(Summary, raw, "b")})
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["Units in the network"] == ["2 (4.17\u202f%)"] * 2
    assert rows["pairs: intact"] == [f"{effect['intact']:.3f}"] * 2
    lowest, highest = min(effect["controls"]), max(effect["controls"])
    assert rows["pairs: controls, median and range"][0].endswith(f"({lowest:.3f} to {highest:.3f})")


@pytest.mark.parametrize(
    "query", ["", "run=", "run=0000000000000000", "run={first}", "run={first}&run={first}",
              "run={first}&run=..%2F..%2Fetc", "&".join(["run={first}"] * 101)]
)  # fmt: skip
def test_what_cannot_be_compared_is_said(server, query):
    answer = Answer(server, f"/compare?{query.format(first=keys(server)['first'])}")
    assert answer.status in (400, 404)
    assert "Traceback" not in answer.text


def test_no_more_than_a_few_are_compared(tmp_path):
    for i in range(MAX_COMPARED + 1):
        fake_run(tmp_path / f"run{i}", **SMALL)
    with ViewServer([tmp_path]) as server:
        every = "&".join(f"run={key}" for key in Collection([tmp_path]).entries())
        assert server.pages.answer(f"/compare?{every}").status == 400


# What is refused


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/....//secret.txt",
        "/run/../secret.txt", "/run/..%2f..%2fsecret.txt", "/run/first", "/run/", "/run",
        "/page/{compared}/../../secret.txt", "/page/{compared}/..%2f..%2fsecret.txt",
        "/page/{compared}/linked.html", "/page/{compared}/manifest.json",
        "/page/{compared}/compare.html%00", "/page/{compared}/", "/page/{compared}/compare.html/",
        "/link/secret.txt", "//evil.example/", "/\\..\\secret.txt",
        "/first/summary.json", "/runs", "/index.html", "/compare/x", "/%c0%ae%c0%ae/secret.txt",
    ],
)  # fmt: skip
def test_paths_lead_nowhere(server, folder, target):
    compared = next(
        entry.key for entry in Collection([folder]).entries().values() if entry.name == "compared"
    )
    answer = Answer(server, target.format(compared=compared))
    assert answer.status == 404
    assert SECRET not in answer.text
    assert "evil" not in answer.text


def test_a_file_that_is_a_link_is_refused(tmp_path):
    run = fake_run(tmp_path / "runs" / "run", **SMALL)
    units = (run / "units.parquet").rename(tmp_path / "units.parquet")
    (run / "units.parquet").symlink_to(units)
    other = fake_run(tmp_path / "runs" / "other", **SMALL)
    with ViewServer([run.parent]) as server:
        keys = {entry.folder: key for key, entry in Collection([run.parent]).entries().items()}
        for target in (f"/run/{keys[run]}", f"/compare?run={keys[run]}&run={keys[other]}"):
            page = server.pages.answer(target)
            assert page.status == 422
            assert "units.parquet in" in page.html
            assert "is a link" in page.html


def test_it_is_no_proxy(server):
    host = f"127.0.0.1:{server.server_address[1]}"
    assert Answer(server, f"http://{host}/", Host=host).status == 404
    assert Answer(server, "http://evil.example/").status == 421


def test_a_page_that_became_a_link_is_refused(tmp_path):
    folder = tmp_path / "cmp"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"format": 1}')
    (folder / "compare.html").write_text("stored")
    (tmp_path / "secret.txt").write_text(SECRET)
    with ViewServer([folder]) as server:
        ((key, entry),) = Collection([folder]).entries().items()
        target = f"/page/{key}/{quote(entry.pages[0])}"
        assert server.pages.answer(target).html == "stored"
        (folder / "compare.html").unlink()
        (folder / "compare.html").symlink_to(tmp_path / "secret.txt")
        assert server.pages.answer(target).status == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}",
             "localhost.evil.example:{port}", "127.0.0.1:{port}.evil.example", "", "[::1]:{port}"]
)  # fmt: skip
def test_other_hosts_are_refused(server, host):
    answer = Answer(server, Host=host.format(port=server.server_address[1]))
    assert answer.status == 421
    assert "first" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}"])
def test_this_machines_names_are_answered(server, host):
    assert Answer(server, Host=host.format(port=server.server_address[1])).status == 200


def test_two_hosts_or_none_are_refused(server):
    port = server.server_address[1]
    for lines in (f"Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n", ""):
        with socket.create_connection(server.server_address, timeout=10) as raw:
            raw.sendall(f"GET / HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
            assert raw.makefile("rb").readline().startswith(b"HTTP/1.0 421")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_only_get_and_head(server, method):
    answer = Answer(server, method=method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_head_has_the_headers_of_get_and_no_body(server):
    head, get = Answer(server, method="HEAD"), Answer(server)
    assert head.text == ""
    assert head.headers["Content-Length"] == str(len(get.text.encode()))


def test_the_headers_that_browsers_heed(server):
    for target in ("/", "/nothing", f"/run/{keys(server)['first']}"):
        headers = Answer(server, target).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
        assert "Python" not in headers["Server"]


def test_nonsense_is_no_request(server):
    with socket.create_connection(server.server_address, timeout=10) as raw:
        raw.sendall(b"\x16\x03\x01\x00\xa5\x01\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)
        assert b"Traceback" not in raw.makefile("rb").read()
    assert Answer(server, "/" + "a" * 5000).status == 414
    assert Answer(server, "/").status == 200


def test_hostile_names_stay_text(server):
    chosen = keys(server)
    pages = [Answer(server).text]
    for target in (f"/run/{chosen['hostile']}",
                   f"/compare?run={chosen['hostile']}&run={chosen['first']}"):  # fmt: skip
        answer = Answer(server, target)
        assert answer.status == 200
        pages.append(answer.text)
    for text in pages:
        assert "<script>alert(1)" not in text
        page = Tags(text)
        assert ATTACK in page.text
        assert not [attrs for tag, attrs in page.tags if tag == "img"]


def test_a_fault_of_its_own_is_answered(server, monkeypatch, capsys):
    def fail(target):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(server.pages, "answer", fail)
    answer = Answer(server)
    assert answer.status == 500
    assert "a fault" not in answer.text
    assert "ZeroDivisionError: a fault" in capsys.readouterr().err


# The command


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/"


def test_a_port_that_is_taken(server, folder):
    with pytest.raises(OptionError, match="cannot listen on port"):
        ViewServer([folder], server.server_address[1])


def test_what_is_no_folder(tmp_path, capsys):
    with pytest.raises(RunError, match="there is no folder"):
        ViewServer([tmp_path / "nothing"])
    assert main(["view", str(tmp_path / "nothing"), "--no-browser"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_serves_until_it_is_interrupted(folder, monkeypatch, capsys):
    seen, opened, called = [], [], threading.Event()
    monkeypatch.setattr("webbrowser.open", lambda url: (opened.append(url), called.set()))

    def interrupted(self, poll_interval=0.5):
        seen.append(self.url)
        raise KeyboardInterrupt

    monkeypatch.setattr(ViewServer, "serve_forever", interrupted)
    assert main(["view", str(folder), "--no-browser"]) == 0
    assert f"at {seen[0]} (Ctrl-C stops)" in capsys.readouterr().out
    assert opened == []
    assert main(["view", str(folder)]) == 0
    assert called.wait(10)
    assert opened == [seen[1]]


def test_serving_says_when_it_is_ready(folder, monkeypatch):
    monkeypatch.setattr(ViewServer, "serve_forever", lambda self: None)
    said = []
    serve([Path(folder)], ready=said.append)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", said[0])


def test_runs_that_went_away_are_not_found(tmp_path):
    run = fake_run(tmp_path / "run", **SMALL)
    with ViewServer([tmp_path]) as server:
        (key,) = Collection([tmp_path]).entries()
        shutil.rmtree(run)
        assert server.pages.answer(f"/run/{key}").status == 404
