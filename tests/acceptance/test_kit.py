"""The kit for integrators: its fixtures in a project of their own, and what the pages say of signatures in Node."""

import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app import create_app
from app.alipay.keyring import Keyring, load_private_key
from app.alipay.signature import verify
from app.simulator.draft import token_canceled
from app.simulator.keys import SANDBOX_CLIENT_ID, SIMULATOR_KEY_NAME
from tests.builders import a_delivery, a_genuine_delivery, an_environ
from tests.integration.http_client import NOTIFY_PATH
from tests.readme import code

NODE = shutil.which("node")

#: By its name: what is installed beside these tests may be older than its entry point.
PLUGIN = ("-p", "no:notifyauth", "-p", "notifyauth_pytest")

#: What the example of the page leaves out.
MORE = """
import pytest
import urllib3


@pytest.fixture(scope="session")
def notifyauth_endpoints():
    return '[endpoints.mine]\\nurl = "http://127.0.0.1:9/"\\nsecrets = ["whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"]\\n'


def test_what_the_signer_signs_is_genuine(notifyauth_signer, notifyauth_service):
    body = b'{"authorizationNotifyType": "TOKEN_CANCELED", "accessToken": "t", "result": {"resultStatus": "S"}}'
    headers = notifyauth_signer.headers(body)
    for sent, status in ((body, 200), (body + b" ", 401)):
        url = notifyauth_service.notify_url
        assert urllib3.request("POST", url, body=sent, headers=headers, retries=False).status == status


def test_a_scenario_is_played(notifyauth_scenario):
    assert len(notifyauth_scenario.play("full-life")) > 3


def test_the_endpoint_is_told(notifyauth_service):
    assert "mine" in str(notifyauth_service.ask("GET", "/v1/deliveries").document)
"""


@pytest.mark.no_cover
def test_the_fixtures_work_in_a_project_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_mine.py").write_text(code("pytest-example", "python") + MORE)
    others = [argument for name in ("schemathesis", "hypothesispytest") for argument in ("-p", f"no:{name}")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGIN, *others]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "FLASK"))}
    found = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=180)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "4 passed" in found.stdout


def test_the_plugin_imports_nothing_of_the_service_before_a_test_asks_for_it() -> None:
    script = "import sys, notifyauth_pytest; print(*sorted(name for name in sys.modules if name.startswith('app')))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == []


@pytest.mark.parametrize("command", [("-m", "pytest"), ("-c", "import pytest; raise SystemExit(pytest.main())")])
def test_a_project_with_an_app_of_its_own_is_left_alone(tmp_path: Path, command: tuple[str, ...]) -> None:
    """To be installed beside it is enough to be loaded with its tests; `-m` alone puts its folder on the path first."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("WHOSE = 'mine'\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\nfilterwarnings = error\n")
    (tmp_path / "test_mine.py").write_text("from app import WHOSE\n\n\ndef test_mine():\n    assert WHOSE == 'mine'\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "FLASK"))}
    environ["PYTEST_ADDOPTS"] = " ".join(["-p no:cacheprovider -p no:schemathesis -p no:hypothesispytest", *PLUGIN])
    found = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=180
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "1 passed" in found.stdout


def test_signing_waits_for_no_database_and_no_client_of_http(keyring_path: Path, tmp_path: Path) -> None:
    """What takes the time is imports: without these it takes a fifth of a second."""
    (tmp_path / "body.json").write_bytes(b"{}")
    script = (
        "import sys, flask.cli\n"
        "sys.argv = ['flask', '--app', 'app', 'simulator', 'sign', 'body.json']\n"
        "try:\n    flask.cli.main()\n"
        "finally:\n    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    environ = {**os.environ, "FLASK_KEYRING": str(keyring_path), "FLASK_SKIP_DOTENV": "1"}
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.startswith(f"client-id: {SANDBOX_CLIENT_ID}\n")
    assert not {"sqlalchemy", "psycopg", "pydantic", "urllib3", "rich", "alembic", "granian"} & set(
        found.stderr.split()
    )


def run_node(function: str, *arguments: object) -> Any:  # noqa: ANN401 -- whatever it returns
    """Call a function of the page."""
    if NODE is None:
        pytest.skip("node is not installed")
    call = f'console.log(JSON.stringify({function}(...JSON.parse(require("node:fs").readFileSync(0)))));'
    program = code("sign-node", "javascript") + call
    given = json.dumps(arguments)
    found = subprocess.run([NODE, "-e", program], input=given, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


BODY = '{"authorizationNotifyType": "TOKEN_CANCELED", "accessToken": "令牌"}'


def test_what_node_signs_is_genuine(keyring_path: Path) -> None:
    key = keyring_path.with_name(SIMULATOR_KEY_NAME).read_text()
    headers = run_node("signed", key, SANDBOX_CLIENT_ID, f"{NOTIFY_PATH}?a=1", BODY)
    delivery = a_delivery(
        uri=f"{NOTIFY_PATH}?a=1",
        client_id=headers["client-id"],
        request_time=headers["request-time"],
        signature=headers["signature"],
        body=BODY.encode(),
    )
    # Raises unless it is.
    verify(delivery, Keyring.load(keyring_path))


@pytest.mark.parametrize(("changed", "genuine"), [("", True), (" ", False)], ids=["as-it-came", "changed"])
def test_node_tells_what_is_genuine(keyring_path: Path, changed: str, *, genuine: bool) -> None:
    private_key = load_private_key(keyring_path.with_name(SIMULATOR_KEY_NAME).read_bytes())
    public_key = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    delivery = a_genuine_delivery(keyring_path, BODY.encode())
    headers = {
        "client-id": delivery.client_id,
        "request-time": delivery.request_time,
        "signature": delivery.signature,
    }
    found = run_node("isGenuine", b64encode(public_key).decode(), delivery.uri, headers, BODY + changed)
    assert found is genuine


def test_the_description_of_the_notification_says_what_is_signed(sqlite_url: str, keyring_path: Path) -> None:
    app = create_app(an_environ(sqlite_url, keyring_path))
    described = app.test_client().get("/openapi.json").get_json()["paths"][NOTIFY_PATH]["post"]
    delivery = a_genuine_delivery(keyring_path, token_canceled("t"))
    assert "POST {path and query}\n{client-id}.{request-time}.{body}\n" in described["description"]
    assert [each["name"] for each in described["parameters"]] == ["client-id", "request-time", "signature"]
    assert all(each["in"] == "header" and each["required"] for each in described["parameters"])
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert set(json.loads(delivery.body)) <= set(schema["properties"])
