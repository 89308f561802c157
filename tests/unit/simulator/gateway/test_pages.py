"""The pages of the pretend gateway over HTTP: a life can be clicked, and nothing hostile gets anywhere."""

from urllib.parse import urlencode, urlsplit

import pytest
import urllib3

from app.alipay.notification import NotificationType
from tests.builders import CLIENT_ID
from tests.unit.simulator.gateway.caller import REDIRECT_URL, code_in
from tests.unit.simulator.gateway.conftest import Stage
from tests.unit.simulator.gateway.test_life import a_token

HOSTILE = "\"'><script>alert(1)</script>{{ 7*7 }}"


def look(stage: Stage, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
    url = path if path.startswith("http") else f"{stage.gateway.url}{path}"
    return stage.caller.http.request("GET", url, headers=headers, redirect=False)


def submit(stage: Stage, path: str, *, headers: dict[str, str] | None = None, **form: str) -> urllib3.BaseHTTPResponse:
    url = path if path.startswith("http") else f"{stage.gateway.url}{path}"
    sent = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
    return stage.caller.http.request("POST", url, body=urlencode(form), headers=sent, redirect=False)


def a_page(stage: Stage, **fields: object) -> str:
    """The address of a consent page."""
    url = stage.caller.consult(**fields).document["normalUrl"]  # type: ignore[arg-type]
    assert isinstance(url, str)
    return url


def test_a_life_can_be_clicked(stage: Stage) -> None:
    page = a_page(stage)
    shown = look(stage, page)
    assert shown.status == 200
    for text in (b"GCash", b"Alma Reyes", CLIENT_ID.encode(), b"AGREEMENT_PAY", b"shop.example", b"s-1"):
        assert text in shown.data
    agreed = submit(stage, page, decision="agree", user="budi")
    first = code_in(agreed.headers["Location"])
    assert (agreed.status, agreed.headers["Location"]) == (303, f"{REDIRECT_URL}&authCode={first}&authState=s-1")
    assert b"Agree again" in look(stage, page).data
    second = code_in(submit(stage, page, decision="agree", user="budi").headers["Location"])
    assert first != second
    given = stage.caller.exchange(second).document
    stage.told(2)
    wallet = look(stage, "/wallet/budi").data
    assert b"in use" in wallet
    assert b"in use" not in look(stage, "/wallet/alma").data
    consent = urlsplit(page).path.rpartition("/")[2]
    assert submit(stage, "/wallet/budi", consent=consent, reason="enough").headers["Location"] == "/wallet/budi"
    assert b"canceled by the user" in look(stage, "/wallet/budi").data
    told = stage.told(3)[2]
    assert told.access_token is not None
    assert (told.type, told.access_token.reveal()) == (NotificationType.TOKEN_CANCELED, given["accessToken"])
    assert look(stage, page).status == 410
    assert b"TOKEN_CANCELED" in look(stage, "/").data


def test_declining_returns_without_a_code_and_cannot_be_undone(stage: Stage) -> None:
    page = a_page(stage)
    assert submit(stage, page, decision="decline", user="alma").headers["Location"] == REDIRECT_URL
    again = submit(stage, page, decision="agree", user="alma")
    assert (again.status, "Location" in again.headers) == (409, False)
    assert stage.gateway.ledger.notifications() == ()


def test_who_has_agreed_cannot_decline(stage: Stage) -> None:
    page = a_page(stage)
    submit(stage, page, decision="agree", user="alma")
    assert submit(stage, page, decision="decline", user="alma").status == 409


def test_what_the_merchant_and_the_user_wrote_is_escaped_on_every_page(stage: Stage) -> None:
    fields = {"authClientId": HOSTILE, "customerBelongsTo": HOSTILE, "scopes": [HOSTILE], "authState": HOSTILE}
    page = a_page(stage, **{**fields, "auth_state": HOSTILE, "authRedirectUrl": f"https://{HOSTILE.replace(' ', '')}"})
    pages = [look(stage, page)]
    code = code_in(submit(stage, page, decision="agree", user="alma").headers["Location"])
    stage.caller.exchange(code, customerBelongsTo=HOSTILE)
    stage.caller.call("revoke", {}, **{"client-id": "<script>"})
    pages += [look(stage, page), look(stage, "/wallet/alma"), look(stage, "/")]
    submit(stage, "/wallet/alma", consent=urlsplit(page).path.rpartition("/")[2], reason=HOSTILE)
    pages += [look(stage, "/wallet/alma"), look(stage, page)]
    pages += [look(stage, f"/merchant?{urlencode({'authCode': HOSTILE, 'authState': HOSTILE})}")]
    assert HOSTILE.split(">", maxsplit=1)[0].encode() not in b"".join(each.data for each in pages)
    for each in pages:
        assert b"<script" not in each.data
        assert b">49" not in each.data


def test_no_page_takes_anything_from_elsewhere_or_runs_a_script(stage: Stage) -> None:
    page = a_page(stage)
    for path in (page, "/", "/wallet/alma", "/merchant", "/nothing"):
        shown = look(stage, path)
        policy = shown.headers["Content-Security-Policy"]
        nonce = policy.partition("'nonce-")[2].partition("'")[0]
        assert policy.startswith("default-src 'none'; style-src 'nonce-")
        assert f'<style nonce="{nonce}">'.encode() in shown.data
        assert [word for word in (b"src=", b"@import", b"<link", b"url(") if word in shown.data] == []
        assert look(stage, path).headers["Content-Security-Policy"] != policy


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "127.0.0.1:1"}],
)
def test_a_page_of_another_site_can_neither_look_nor_decide_nor_ask_for_faults(
    stage: Stage, headers: dict[str, str]
) -> None:
    page = a_page(stage)
    assert look(stage, "/ledger", **headers).status == 403
    assert submit(stage, page, headers=headers, decision="agree", user="alma").status == 403
    faults = stage.caller.http.request("POST", f"{stage.gateway.url}/faults", json={"fault": "silent"}, headers=headers)
    assert faults.status == 403
    assert (stage.gateway.ledger.decisions(), stage.gateway.faults.left()) == ((), ())


def test_a_fault_is_not_taken_as_a_form(stage: Stage) -> None:
    assert submit(stage, "/faults", fault="silent").status == 404
    body = b'{"fault": "silent"}'
    sent = stage.caller.http.request(
        "POST", f"{stage.gateway.url}/faults", body=body, headers={"Content-Type": "text/plain"}
    )
    assert (sent.status, stage.gateway.faults.left()) == (404, ())


@pytest.mark.parametrize(
    "form", [{}, {"decision": "agree"}, {"decision": "agree", "user": "nobody"}, {"decision": "x", "user": "alma"}]
)
def test_a_form_that_is_not_ours_decides_nothing(stage: Stage, form: dict[str, str]) -> None:
    page = a_page(stage)
    assert submit(stage, page, headers=None, **form).status == 400
    assert stage.gateway.ledger.decisions() == ()


def test_a_user_cancels_only_what_is_in_the_own_wallet(stage: Stage) -> None:
    a_token(stage)
    consent = stage.gateway.ledger.tokens()[0].consent_id
    assert submit(stage, "/wallet/chen", consent=consent).status == 404
    assert submit(stage, "/wallet/alma", consent="unknown").status == 404
    assert len(stage.gateway.ledger.alive_tokens()) == 1


@pytest.mark.parametrize(
    "path", ["/consent/unknown", "/wallet/nobody", "/wallet", "/etc/passwd", "/../../x", "//evil.example", "/%00"]
)
def test_there_is_nothing_elsewhere(stage: Stage, path: str) -> None:
    assert look(stage, path).status == 404
    assert submit(stage, path).status == 404


def test_a_body_that_is_too_large_is_refused(stage: Stage) -> None:
    assert submit(stage, "/wallet/alma", reason="x" * 70_000).status == 413
    assert stage.caller.call("revoke", b"x" * 70_000).status == 413


def test_the_redirect_keeps_a_fragment_and_escapes_the_auth_state(stage: Stage) -> None:
    page = a_page(stage, auth_state="a b&authCode=x\r\nSet-Cookie: y", authRedirectUrl="https://shop.example/#top")
    location = submit(stage, page, decision="agree", user="alma").headers["Location"]
    code = code_in(location)
    assert location == f"https://shop.example/?authCode={code}&authState=a+b%26authCode%3Dx%0D%0ASet-Cookie%3A+y#top"
