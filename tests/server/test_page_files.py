"""The page's files: served from the package under a strict policy, whole, and with nothing from elsewhere."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from dendrite_server.config import ServerConfig
from tests.server.conftest import Serve, Server

STATIC = Path(str(files("dendrite_server.page") / "static"))
FILES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())
OWN_SCRIPTS = [name for name in FILES if name.endswith(".js") and not name.startswith("vendor/")]
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_every_file_is_served_under_the_policy(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    name = "index.html" if path == "/" else path.removeprefix("/page/")
    assert answer.content == (STATIC / name).read_bytes()
    wanted = TYPES.get(Path(name).suffix)
    assert wanted is None or answer.headers["content-type"].split(";")[0] == wanted
    parts = answer.headers["content-security-policy"].split("; ")
    policy = dict(part.split(" ", 1) for part in parts)
    assert policy["default-src"] == "'none'"
    assert {value for name, value in policy.items() if name.endswith("-src")} == {"'none'", "'self'"}
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_file_that_did_not_change_is_not_sent_again(http: httpx.Client) -> None:
    first = http.get("/page/style.css")
    again = http.get("/page/style.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/page/none.js", "/page/../serving.py", "/page/%2e%2e/README.md", "/page/"])
def test_nothing_else_is_served(server: Server, path: str) -> None:
    answer = httpx.get(server.url + path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_what_the_page_names_is_there() -> None:
    html = (STATIC / "index.html").read_text()
    named = re.findall(r'(?:src|href)="/page/([^"]+)"', html)
    named += re.findall(r'url\("([^"]+)"\)', (STATIC / "style.css").read_text())
    for script in OWN_SCRIPTS:
        named += re.findall(r'from "\./([^"]+)"', (STATIC / script).read_text())
    assert {"main.js", "style.css", "vendor/d3.js", "vendor/inter.woff2"} <= set(named) <= set(FILES)
    # Ids that scripts ask for are in the page, or made by a script.
    scripts = "".join((STATIC / script).read_text() for script in OWN_SCRIPTS)
    for name in set(re.findall(r'byId\("([^"]+)"\)', scripts)):
        assert re.search(rf'id(="|: "){name}"', html + scripts), name


def test_nothing_is_written_into_the_page_but_text() -> None:
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|https?://", html)
    for script in OWN_SCRIPTS:
        text = (STATIC / script).read_text()
        assert not re.search(r"innerHTML|outerHTML|Adjacent|document\.write|\beval\(|new Function", text)
        assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_the_page_opens_without_the_key_and_shows_nothing_without_it(serve: Serve) -> None:
    server = serve(ServerConfig(api_keys=("secret",)))
    assert httpx.get(f"{server.url}/").status_code == 200
    assert httpx.get(f"{server.url}/page/main.js").status_code == 200
    for path in ("/v1/trees", "/v1/trees/events", "/v1/trees/x", "/v1/trees/x/events", "/page"):
        assert httpx.get(server.url + path).status_code == 401
