"""A pretend gateway as a process, and a browser in which its users decide."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import urllib3
from typing_extensions import override

from tests.acceptance.server import FLASK, a_free_port, flask, process_environ
from tests.conftest import ROOT

_SECONDS_MAX = 30


@dataclass
class Gateway:
    """A gateway that is running, or is about to: its address is known beforehand."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, fault: str, operation: str, *, times: int = 1, **said: object) -> None:
        """Ask it to go wrong."""
        document = {"fault": fault, "operation": operation, "times": times, **said}
        answer = urllib3.request("POST", f"{self.url}/faults", json=document, retries=False)
        assert answer.status == 201, answer.data

    def ledger(self) -> dict[str, list[dict[str, Any]]]:
        """Everything that was done."""
        found: dict[str, list[dict[str, Any]]] = urllib3.request("GET", f"{self.url}/ledger", retries=False).json()
        return found

    def received(self, operation: str, subject: str | None = None) -> list[dict[str, Any]]:
        """The calls of this kind that came, about this code or token."""
        calls = [each for each in self.ledger()["calls"] if each["operation"] == operation]
        return [each for each in calls if subject in {None, each["subject"]}]


def make_keys(folder: Path, *, gateway: str | None) -> Path:
    """Make the keys of a sandbox as the README says, and return its keyring."""
    path = folder / "keyring.toml"
    options = () if gateway is None else ("--gateway", gateway)
    made = flask({"FLASK_KEYRING": str(path)}, "simulator", "keys", *options)
    assert made.returncode == 0, made.stderr
    return path


def a_gateway() -> Gateway:
    """Choose where a gateway is going to listen."""
    return Gateway(a_free_port())


@contextmanager
def running_gateway(gateway: Gateway, keyring_path: Path, log: Path, *options: str) -> Iterator[None]:
    """Run it until the end of the block, listening from its beginning."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [FLASK, "simulator", "gateway", "--port", str(gateway.port), *options],
            cwd=ROOT,
            env=process_environ({"FLASK_KEYRING": str(keyring_path)}),
            stdout=output,
            stderr=output,
            text=True,
        )
    try:
        deadline = time.monotonic() + _SECONDS_MAX
        while not _answers(gateway):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=_SECONDS_MAX)


def _answers(gateway: Gateway) -> bool:
    try:
        return urllib3.request("GET", f"{gateway.url}/faults", retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


# --- a browser -------------------------------------------------------------------------------------------------------


@dataclass
class Page:
    """What a browser shows."""

    url: str
    status: int
    text: str
    headers: Mapping[str, str]


@dataclass
class Browser:
    """Opens pages, presses buttons of their forms and goes where it is sent, as far as that is on this machine."""

    page: Page | None = None
    #: Where it was sent, the last address first.
    sent_to: list[str] = field(default_factory=list)

    def open(self, url: str) -> Page:
        return self._go("GET", url, None)

    def press(self, button: str, **fields: str) -> Page:
        """Send the form that has this button, with what is filled in, and follow where that leads."""
        assert self.page is not None
        forms = _Forms(self.page.text).forms
        (form,) = [each for each in forms if button in each.buttons.values()]
        (pressed,) = [name for name, value in form.buttons.items() if value == button]
        sent = form.fields | fields | {pressed.partition("=")[0]: pressed.partition("=")[2]}
        return self._go("POST", urljoin(self.page.url, form.action), sent)

    def _go(self, method: str, url: str, fields: Mapping[str, str] | None) -> Page:
        headers, body = {}, None
        if fields is not None:
            headers = {
                "Origin": f"http://{urlsplit(url).netloc}",
                "Content-Type": "application/x-www-form-urlencoded",
            }
            body = urlencode(fields)
        answer = urllib3.request(method, url, body=body, headers=headers, redirect=False, retries=False)
        self.page = Page(url, answer.status, answer.data.decode(), dict(answer.headers))
        if answer.status != 303:
            return self.page
        target = urljoin(url, answer.headers["Location"])
        self.sent_to.insert(0, target)
        if urlsplit(target).hostname != "127.0.0.1":
            return self.page
        return self._go("GET", target, None)

    def brought(self) -> dict[str, str]:
        """What the last address brings to the merchant's page."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.sent_to[0]).query).items()}


@dataclass
class _Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    #: What a button sends, as name=value, and what it says.
    buttons: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    """Reads the forms of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[_Form] = []
        self._button = self._select = ""
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        match tag:
            case "form":
                self.forms.append(_Form(said["action"]))
            case "input" if said.get("type") == "hidden":
                self.forms[-1].fields[said["name"]] = said["value"]
            case "select":
                self._select = said["name"]
            case "option" if "selected" in said or self._select not in self.forms[-1].fields:
                self.forms[-1].fields[self._select] = said["value"]
            case "button":
                self._button = f"{said.get('name', '')}={said.get('value', '')}"
            case _:
                pass

    @override
    def handle_data(self, data: str) -> None:
        if self._button:
            self.forms[-1].buttons[self._button] = data.strip()
            self._button = ""


def shown(document: object) -> str:
    """A document for whoever reads the failure of a test."""
    return json.dumps(document, indent=1)
