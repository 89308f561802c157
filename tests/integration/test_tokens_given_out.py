"""No token is given out once its cancellation is acknowledged, however much else is still to be resumed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from app import authorizations, unit_of_work
from app.models import InboxEntry
from app.resuming import Resumption
from app.simulator.draft import authcode_created, token_canceled, token_created
from tests.integration.http_client import HttpClient, problem

#: The two answers that give no token: not yet, and not any more.
CLOSED = {(503, "unavailable"), (409, "no-active-token")}


@pytest.fixture(params=[1, 2, 3])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many parked entries a transaction resumes. No thread goes on: a process died after each of them."""
    size: int = request.param
    monkeypatch.setattr(unit_of_work, "RESUMED_AT_ONCE_MAX", size)
    monkeypatch.setattr(Resumption, "resume_later", lambda *_: None)
    return size


def pieces(http: HttpClient) -> Iterator[None]:
    """Resume one piece after another, and stop before the first, between two, and after the last."""
    yield
    while found := http.service.database.run(lambda session: list(authorizations.unfinished(session, limit=9))):
        http.service.receiver._resume_next_piece(found[0])  # noqa: SLF001 -- threads would leave it to chance when
        yield


def show(http: HttpClient, authorization: dict[str, Any]) -> dict[str, Any]:
    """The document, which the shell shows as HTTP does."""
    document: dict[str, Any] = http.get(http.at(authorization)).get_json()
    shown = http.app.test_cli_runner().invoke(args=["authorizations", "show", document["authState"], "--json"])
    assert json.loads(shown.stdout) == document
    return document


def token_of(http: HttpClient, authorization: dict[str, Any]) -> str | tuple[int, str]:
    """The token that is given out, or the problem that is answered instead."""
    response = http.get(http.at(authorization, "token"))
    if response.status_code != 200:
        return problem(response)
    token: str = response.get_json()["accessToken"]
    return token


PARKED = [authcode_created("s-1", "code-1"), authcode_created("s-1", "code-2"), token_created("s-1", "token-1")]


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("place", range(len(PARKED) + 1))
def test_a_token_is_never_active_between_two_pieces_once_its_cancellation_is_acknowledged(
    http: HttpClient, place: int
) -> None:
    for draft in [*PARKED[:place], token_canceled("token-1"), *PARKED[place:]]:
        assert http.notify(draft).status_code == 200
    authorization = http.consult()
    for _ in pieces(http):
        assert token_of(http, authorization) in CLOSED
        assert show(http, authorization)["state"] != "token_active"
    document = show(http, authorization)
    events = ["consult", "authcode_created", "authcode_created", "token_created", "token_canceled"]
    assert [move["event"] for move in document["history"]] == events
    assert {each["outcome"] for each in document["notifications"]} == {"applied"}


@pytest.mark.parametrize("piece", [2], indirect=True)
@pytest.mark.usefixtures("piece")
def test_a_cancellation_behind_much_that_is_parked_ends_its_token_in_the_transaction_that_makes_it_known(
    http: HttpClient,
) -> None:
    """Behind more than one transaction resumes."""
    http.notify(token_created("s-1", "token-1"))
    for number in range(6):
        http.notify(authcode_created("s-1", f"code-{number}"))
    http.notify(token_canceled("token-1"))
    authorization = http.consult(flow="direct")
    assert show(http, authorization)["state"] == "canceled"
    for _ in pieces(http):
        assert token_of(http, authorization) == (409, "no-active-token")
    outcomes = [each["outcome"] for each in show(http, authorization)["notifications"]]
    assert outcomes == ["applied", *["rejected"] * 6, "applied"]


@pytest.mark.parametrize("piece", [2], indirect=True)
@pytest.mark.usefixtures("piece")
def test_a_reported_token_is_canceled_at_once_by_what_was_parked_behind_much_else(http: HttpClient) -> None:
    authorization = http.consult()
    for number in range(6):
        http.notify(token_created("s-1", f"token-{number}"))
    http.notify(token_canceled("token-9"))
    reported = http.post(http.at(authorization, "tokens"), {"accessToken": "token-9", "authCode": "code-1"})
    assert (reported.status_code, reported.get_json()["state"]) == (200, "canceled")
    for _ in pieces(http):
        assert token_of(http, authorization) == (409, "no-active-token")


@pytest.mark.parametrize("piece", [1], indirect=True)
@pytest.mark.usefixtures("piece")
def test_a_cancellation_between_two_pieces_stops_the_token_from_being_read_at_once(http: HttpClient) -> None:
    http.notify(token_created("s-1", "token-1"))
    for number in range(3):
        http.notify(authcode_created("s-1", f"code-{number}"))
    authorization = http.consult(flow="direct")
    assert show(http, authorization)["state"] == "token_active"
    assert http.notify(token_canceled("token-1")).status_code == 200
    refused = http.get(http.at(authorization, "token"))
    assert problem(refused) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    for _ in pieces(http):
        assert token_of(http, authorization) in CLOSED
    assert show(http, authorization)["state"] == "canceled"


@pytest.mark.parametrize("piece", [1], indirect=True)
@pytest.mark.usefixtures("piece")
def test_a_token_is_given_out_when_all_that_was_parked_has_been_resumed(http: HttpClient) -> None:
    for draft in PARKED:
        http.notify(draft)
    authorization = http.consult()
    *between, after = [token_of(http, authorization) for _ in pieces(http)]
    assert set(between) == {(503, "unavailable")}
    assert after == "token-1"


def test_a_token_whose_acknowledged_cancellation_failed_is_not_given_out(http: HttpClient) -> None:
    """The user said stop. That it could not be carried out is our failure."""
    http.notify(token_canceled("token-1"))
    sealed = set_body(http, b"this opens under no key")
    authorization = http.consult(flow="direct")
    http.notify(token_created("s-1", "token-1"))
    document = show(http, authorization)
    assert (document["state"], document["notifications"][0]["outcome"]) == ("token_active", "failed")
    assert token_of(http, authorization) == (503, "unavailable")
    set_body(http, sealed)
    assert http.notify(token_canceled("token-1")).status_code == 200
    assert token_of(http, authorization) == (409, "no-active-token")
    assert show(http, authorization)["state"] == "canceled"


def set_body(http: HttpClient, sealed: bytes) -> bytes:
    """Put another sealed body in the place of that of the only cancellation, which is returned."""

    def swap(session: Session) -> bytes:
        before: bytes = session.execute(
            text("SELECT sealed_body FROM inbox WHERE type = 'TOKEN_CANCELED'")
        ).scalar_one()
        session.execute(update(InboxEntry).where(InboxEntry.type == "TOKEN_CANCELED").values(sealed_body=sealed))
        return bytes(before)

    return http.service.database.run(swap)


def test_the_cancellation_of_a_superseded_token_leaves_the_current_one_readable(http: HttpClient) -> None:
    authorization = http.consult(flow="direct")
    http.post(http.at(authorization, "tokens"), {"accessToken": "token-1"})
    http.post(http.at(authorization, "tokens"), {"accessToken": "token-2", "replaces": "token-1"})
    assert http.notify(token_canceled("token-1")).status_code == 200
    assert token_of(http, authorization) == "token-2"
