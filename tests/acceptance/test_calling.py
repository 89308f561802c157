"""A service that calls Alipay itself: from a consult over the consent in a browser to a revoke, whatever goes wrong.

A server, a pretend gateway and an endpoint; the merchant's own code has no part between the consult and the charge.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.acceptance.gateway import Browser, Gateway, a_gateway, make_keys, running_gateway, shown
from tests.acceptance.server import Server, running_server
from tests.builders import an_environ
from tests.receiver import SECRET, Receiver, a_receiver

API_KEY = "a-key-of-the-shop"

#: What no database has a part in: how each fault of the gateway's ends is tried on both, a level below.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Shop:
    """A merchant with a service, and what surrounds it."""

    server: Server
    gateway: Gateway
    receiver: Receiver
    log: Path
    browser: Browser = field(default_factory=Browser)

    def ask(self, method: str, path: str, body: object = None) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        return urllib3.request(method, f"{self.server.url}{path}", json=body, headers=headers, retries=False)

    def consult(self, auth_state: str) -> dict[str, Any]:
        answer = self.ask(
            "POST",
            "/v1/consults",
            {
                "authState": auth_state,
                "userRef": "u-1",
                "customerBelongsTo": "GCASH",
                "authRedirectUrl": f"{self.gateway.url}/merchant",
                "scopes": ["AGREEMENT_PAY"],
            },
        )
        assert answer.status == 201, answer.data
        document: dict[str, Any] = answer.json()
        return document

    def agree(self, auth_state: str) -> dict[str, Any]:
        """Consult, open the page of the wallet and agree; return what the consult was answered."""
        document = self.consult(auth_state)
        self.browser.open(document["normalUrl"])
        self.browser.press("Agree")
        assert self.browser.brought()["authState"] == auth_state
        return document

    def show(self, document: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/v1/authorizations/{document['id']}").json()
        return found

    def told(self, auth_state: str) -> list[str]:
        """What the endpoint has heard of an authorization, in order."""
        events = [each for each in self.receiver.events() if each["data"]["authState"] == auth_state]
        return [each["type"].removeprefix("authorization.") for each in events]

    def wait_until(self, is_so: Callable[[], bool], *, about: object = None) -> None:
        deadline = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < deadline, f"{shown(about)}\n{self.log.read_text()}"
            time.sleep(0.02)

    def wait_for_the_end(self, document: dict[str, Any], kind: str) -> dict[str, Any]:
        """Wait until the newest call is one of this kind and has ended, and return the authorization."""

        def has_ended() -> bool:
            call = self.show(document)["call"]
            return call["kind"] == kind and call["status"] != "due" and not call["isInFlight"]

        self.wait_until(has_ended)
        return self.show(document)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver() as receiver:
        yield receiver


@pytest.fixture
def shop(database_url: str, tmp_path: Path, receiver: Receiver) -> Iterator[Shop]:
    """Everything that runs, each a process of its own but the endpoint."""
    gateway = a_gateway()
    keyring_path = make_keys(tmp_path, gateway=gateway.url)
    endpoints_path = tmp_path / "endpoints.toml"
    endpoints_path.write_text(f'[endpoints.shop]\nurl = "{receiver.url}"\nsecrets = ["{SECRET}"]\n')
    environ = an_environ(
        database_url, keyring_path, FLASK_ENDPOINTS=str(endpoints_path), FLASK_API_KEYS=f"shop={API_KEY}"
    )
    log = tmp_path / "server.log"
    with running_server(environ, log, "--workers", "1") as server:
        notify = f"{server.url}/alipay/notifyAuthorization"
        with running_gateway(gateway, keyring_path, tmp_path / "gateway.log", "--to", notify):
            yield Shop(server, gateway, receiver, log)


def test_a_user_agrees_in_a_browser_and_the_endpoint_hears_of_the_token(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    document = shop.consult("s-1")
    page = shop.browser.open(document["normalUrl"])
    assert "Let this merchant use your GCash wallet?" in page.text
    agreed_at = time.monotonic()
    back = shop.browser.press("Agree", user="budi")
    assert (back.status, back.url.partition("?")[0]) == (200, f"{shop.gateway.url}/merchant")
    # From here on the merchant asks for nothing: whatever the endpoint hears comes by itself.
    shop.receiver.wait_for(3)
    heard_at = shop.receiver.received[2].at
    assert shop.told("s-1") == ["consulted", "authcode_issued", "token_active"]
    with capsys.disabled():
        print(f"\nfrom the button to authorization.token_active: {heard_at - agreed_at:.2f} s")  # noqa: T201 -- to be seen

    active = shop.show(document)
    assert [each["cause"] for each in active["history"]] == ["api", "notification", "gateway"]
    assert active["accessTokenExpiryTime"] is not None
    assert shop.gateway.received("exchange")[0]["result_code"] == "SUCCESS"
    token = shop.ask("GET", f"/v1/authorizations/{document['id']}/token").json()
    given = shop.gateway.ledger()["tokens"]
    assert [each["access_token"] for each in given] == [token["accessToken"]]

    refreshed = shop.ask("POST", f"/v1/authorizations/{document['id']}/refresh")
    assert (refreshed.status, refreshed.json()["history"][-1]["event"]) == (200, "token_refreshed")
    newer = shop.ask("GET", f"/v1/authorizations/{document['id']}/token").json()
    assert newer["accessToken"] == shop.gateway.ledger()["tokens"][-1]["access_token"] != token["accessToken"]

    revoked = shop.ask("POST", f"/v1/authorizations/{document['id']}/revoke")
    assert (revoked.status, revoked.json()["state"]) == (200, "canceled")
    shop.receiver.wait_for(5)
    assert shop.told("s-1")[3:] == ["token_refreshed", "canceled"]
    # Alipay tells of the cancellation itself, before or after its answer is recorded: it is one.
    shop.wait_until(lambda: len(shop.show(document)["notifications"]) == 2)
    assert [each["event"] for each in shop.show(document)["history"]].count("token_canceled") == 1
    log = shop.log.read_text()
    assert "Traceback" not in log
    secrets = [each[name] for each in shop.gateway.ledger()["tokens"] for name in ("access_token", "refresh_token")]
    assert not any(each in log for each in [*secrets, shop.browser.brought()["authCode"]])


@on_sqlite
def test_a_user_who_declines_or_takes_it_back_is_seen(shop: Shop) -> None:
    declined = shop.consult("s-1")
    shop.browser.open(declined["normalUrl"])
    shop.browser.press("Decline")
    assert "authCode" not in shop.browser.brought()
    assert shop.browser.open(declined["normalUrl"]).status == 410

    given = shop.agree("s-2")
    shop.wait_until(lambda: shop.show(given)["state"] == "token_active")
    shop.browser.open(f"{shop.gateway.url}/wallet/alma")
    shop.browser.press("Cancel the authorization", reason="no more")
    shop.wait_until(lambda: shop.told("s-2")[-1:] == ["canceled"])
    assert shop.show(declined)["state"] == "consulted"


@on_sqlite
def test_a_user_who_goes_back_and_agrees_again_has_one_token_that_lives(shop: Shop) -> None:
    document = shop.agree("s-1")
    shop.wait_until(lambda: shop.show(document)["state"] == "token_active")
    shop.browser.open(document["normalUrl"])
    shop.browser.press("Agree again")
    shop.wait_until(lambda: len(shop.show(document)["notifications"]) == 2)
    token = shop.ask("GET", f"/v1/authorizations/{document['id']}/token").json()["accessToken"]
    alive = [each["access_token"] for each in shop.gateway.ledger()["tokens"] if each["end"] is None]
    assert alive == [token]


# --- what goes wrong -------------------------------------------------------------------------------------------------

#: Of each fault of an exchange: how the call ends, where the authorization stands, and a part of the sentence.
NOTHING_WAS_DONE = {
    "unknown": ("done", "token_active", None),
    "in-process": ("done", "token_active", None),
    "cut-before": ("done", "token_active", None),
    "error-500": ("done", "token_active", None),
    "refused": ("failed", "authcode_issued", "PROCESS_FAIL"),
    "refused-unsigned": ("failed", "authcode_issued", "PROCESS_FAIL"),
}
IT_WAS_DONE = dict.fromkeys(
    (
        "unknown-done",
        "cut-after",
        "unsigned",
        "half-signed",
        "bad-signature",
        "replayed-signature",
        "other-client",
        "huge",
        "html",
        "not-json",
        "redirect",
    ),
    ("undetermined", "authcode_issued", "A TOKEN_CREATED may still bring the token."),
)
OTHER_ANSWERS = {
    "slow": ("done", "token_active", None),
    "no-refresh-token": ("done", "token_active", None),
    "no-expiry": ("done", "token_active", None),
}
#: Each of these keeps a request for as long as a call may take.
HANGING = {
    "silent": ("done", "token_active", None),
    "silent-done": ("undetermined", "authcode_issued", "A TOKEN_CREATED may still bring the token."),
    "endless": ("undetermined", "authcode_issued", "A TOKEN_CREATED may still bring the token."),
    "drip": ("undetermined", "authcode_issued", "A TOKEN_CREATED may still bring the token."),
}


def require_end(shop: Shop, document: dict[str, Any], fault: str, expected: tuple[str, str, str | None]) -> None:
    """Require that an exchange ended as expected, that it says so, and that the endpoint was told."""
    found = shop.wait_for_the_end(document, "exchange")
    status, state, sentence = expected
    assert (fault, found["call"]["status"], found["state"]) == (fault, status, state)
    if sentence is None:
        assert found["call"]["reason"] is None
        shop.wait_until(lambda: shop.told(fault)[-1:] == ["token_active"], about=fault)
    else:
        assert sentence in found["call"]["reason"]
        shop.wait_until(lambda: shop.told(fault)[-1:] == ["exchange_failed"], about=fault)


@on_sqlite
@pytest.mark.parametrize("faults", [NOTHING_WAS_DONE, IT_WAS_DONE, OTHER_ANSWERS], ids=["not done", "done", "others"])
def test_each_fault_of_an_exchange_ends_as_the_protocol_says(
    shop: Shop, faults: dict[str, tuple[str, str, str | None]]
) -> None:
    for fault, expected in faults.items():
        shop.gateway.fail(fault, "exchange")
        require_end(shop, shop.agree(fault), fault, expected)
    suffered = [each for call in shop.gateway.received("exchange") for each in call["faults"]]
    assert suffered == list(faults)
    assert len(shop.gateway.received("exchange")) >= len(faults)


@on_sqlite
def test_exchanges_that_hang_end_as_the_protocol_says_and_keep_no_other_waiting(shop: Shop) -> None:
    for fault in HANGING:
        shop.gateway.fail(fault, "exchange")
    hanging = {}
    for fault in HANGING:
        hanging[fault] = shop.agree(fault)
        shop.wait_until(lambda: len(shop.gateway.received("exchange")) == len(hanging))
    # In the order in which they were asked for.
    assert [call["faults"] for call in shop.gateway.received("exchange")] == [[each] for each in HANGING]
    other = shop.agree("other")
    shop.wait_until(lambda: shop.told("other")[-1:] == ["token_active"])
    assert shop.show(other)["state"] == "token_active"
    assert all(shop.show(each)["call"]["status"] == "due" for each in hanging.values())
    for fault, expected in HANGING.items():
        require_end(shop, hanging[fault], fault, expected)


@on_sqlite
def test_what_the_notifications_do_ends_as_the_protocol_says(shop: Shop) -> None:
    # The code comes by the redirect alone.
    shop.gateway.fail("lost-notification", "consent")
    by_redirect = shop.agree("by redirect")
    code = shop.browser.brought()["authCode"]
    assert shop.ask("POST", f"/v1/authorizations/{by_redirect['id']}/authcode", {"authCode": code}).status == 200
    shop.wait_until(lambda: shop.told("by redirect")[-1:] == ["token_active"])
    # The token comes by the notification first.
    shop.gateway.fail("notify-before", "exchange")
    before = shop.agree("before")
    found = shop.wait_for_the_end(before, "exchange")
    assert (found["state"], found["accessTokenExpiryTime"] is None) == ("token_active", False)
    assert [each["outcome"] for each in found["notifications"]] == ["applied", "applied"]
    # The answer is lost, and the notification brings the token after all.
    for fault in ("cut-after", "notify-after"):
        shop.gateway.fail(fault, "exchange", seconds=2)
    lost = shop.agree("lost")
    assert shop.wait_for_the_end(lost, "exchange")["call"]["status"] == "undetermined"
    shop.wait_until(lambda: shop.told("lost")[-1:] == ["token_active"])
    assert shop.show(lost)["state"] == "token_active"
    # Whoever takes it back silently is only found out by a payment.
    shop.gateway.fail("lost-notification", "cancel")
    shop.browser.open(f"{shop.gateway.url}/wallet/alma")
    token = shop.ask("GET", f"/v1/authorizations/{lost['id']}/token").json()["accessToken"]
    result = {"resultCode": "INVALID_ACCESS_TOKEN", "accessToken": token}
    assert shop.ask("POST", f"/v1/authorizations/{lost['id']}/payment-results", result).json()["state"] == "canceled"


@on_sqlite
def test_refreshes_revokes_and_consults_that_go_wrong_end_as_the_protocol_says(shop: Shop) -> None:
    document = shop.agree("s-1")
    shop.wait_until(lambda: shop.show(document)["state"] == "token_active")
    at = f"/v1/authorizations/{document['id']}"
    shop.gateway.fail("refused", "refresh", code="INVALID_REFRESH_TOKEN")
    refused = shop.ask("POST", f"{at}/refresh")
    assert (refused.status, refused.json()["resultCode"]) == (422, "INVALID_REFRESH_TOKEN")
    assert "authorize again before the token expires" in refused.json()["remedy"]
    shop.wait_until(lambda: shop.told("s-1")[-1:] == ["refresh_failed"])
    # One whose answer is lost may have worked: the old token is dead, and nobody knows the new one.
    shop.gateway.fail("cut-after", "refresh")
    lost = shop.ask("POST", f"{at}/refresh")
    assert (lost.status, lost.json()["code"]) == (504, "no-answer")
    assert shop.show(document)["call"]["status"] == "undetermined"
    assert "may have succeeded" in lost.json()["detail"]
    # A revoke whose answer is lost is made again until the token is gone.
    shop.gateway.fail("unsigned", "revoke")
    revoked = shop.ask("POST", f"{at}/revoke")
    assert (revoked.status, revoked.json()["state"]) == (200, "canceled")
    # By its second answer, or by the notification of the first.
    assert shop.show(document)["call"]["status"] == "done"

    shop.gateway.fail("refused", "consult", code="RISK_REJECT")
    body = {
        "authState": "s-2",
        "customerBelongsTo": "GCASH",
        "authRedirectUrl": "https://shop.example/",
        "scopes": ["A"],
    }
    refused = shop.ask("POST", "/v1/consults", body)
    assert (refused.status, refused.json()["resultCode"]) == (422, "RISK_REJECT")
    shop.gateway.fail("cut-after", "consult")
    assert shop.consult("s-3")["normalUrl"].startswith(shop.gateway.url)
    consults = shop.gateway.received("consult", "s-3")
    assert len({each["digest"] for each in consults}) == 1 < len(consults)
