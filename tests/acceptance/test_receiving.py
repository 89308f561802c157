"""The receivers of `docs/events.md` verify what an endpoint is sent, as they stand there."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.simulator.listener import new_secret
from tests.readme import code

NODE = shutil.which("node")
SECRET, OTHER_SECRET = new_secret(), new_secret()
EVENT = {"id": "e-1", "type": "authorization.canceled", "data": {"authState": "s-\u00e9\ud800", "sequence": 4}}
BODY = json.dumps(EVENT)

#: What stands for the merchant's own framework: it hands the request over, and says what came of it.
DRIVER = """
const { secret, headers, body } = JSON.parse(require("node:fs").readFileSync(0));
try { console.log(JSON.stringify(verified(secret, headers, body))); } catch { process.exit(3); }
"""

Verify = Callable[[str, Mapping[str, str], bytes], Any]


def in_python() -> Verify:
    written: dict[str, Any] = {}
    exec(code("receive-python", "python"), written)  # noqa: S102 -- the lines of the page are what is tested
    return written["verified"]  # type: ignore[no-any-return]  # Whatever the page defines.


def in_node() -> Verify:
    def verified(secret: str, headers: Mapping[str, str], body: bytes) -> Any:  # noqa: ANN401 -- whatever it parses
        assert NODE is not None
        given = json.dumps({"secret": secret, "headers": headers, "body": body.decode()})
        program = code("receive-node", "javascript") + DRIVER
        ran = subprocess.run([NODE, "-e", program], input=given, capture_output=True, text=True, check=False)
        assert ran.returncode in {0, 3}, ran.stderr
        if ran.returncode:
            raise WebhookVerificationError
        return json.loads(ran.stdout)

    return verified


@pytest.fixture(params=["python", "node"])
def verified(request: pytest.FixtureRequest) -> Verify:
    """The function of the page, in each of its languages."""
    if request.param == "node" and NODE is None:
        pytest.skip("there is no node on this machine")
    return in_python() if request.param == "python" else in_node()


def headers(*secrets: str, age: timedelta = timedelta(0)) -> dict[str, str]:
    at = datetime.now(UTC) - age
    signatures = [Webhook(each).sign("e-1", at, BODY) for each in secrets]
    return {
        "webhook-id": "e-1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


@pytest.mark.parametrize("secrets", [(SECRET,), (OTHER_SECRET, SECRET)], ids=["one", "while it is changed"])
def test_what_is_signed_is_read(verified: Verify, secrets: tuple[str, ...]) -> None:
    assert verified(SECRET, headers(*secrets), BODY.encode())["data"]["sequence"] == 4


@pytest.mark.parametrize(
    ("forged", "body"),
    [
        (headers(OTHER_SECRET), BODY),
        (headers(SECRET), BODY.replace("4", "5")),
        (headers(SECRET) | {"webhook-id": "e-2"}, BODY),
        (headers(SECRET, age=timedelta(minutes=6)), BODY),
        (headers(SECRET) | {"webhook-signature": "v1,"}, BODY),
        (headers(SECRET) | {"webhook-timestamp": "soon"}, BODY),
        ({}, BODY),
    ],
    ids=["another secret", "another body", "another id", "old", "no signature", "no time", "no headers"],
)
def test_what_is_not_ours_is_refused(verified: Verify, forged: dict[str, str], body: str) -> None:
    with pytest.raises(WebhookVerificationError):
        verified(SECRET, forged, body.encode())
