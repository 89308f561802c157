"""The merchant's endpoints: look through the deliveries of webhooks, and have one sent again."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from app.events import deliveries, feed
from app.events.deliveries import Attempt, Status
from app.events.endpoints import Endpoint, Endpoints
from app.simulator.draft import authcode_created
from tests.integration.http_client import HttpClient, problem

DELIVERIES = "/v1/deliveries"


def tell(http: HttpClient, *endpoints: str) -> None:
    """Number what happened, and make a delivery of it to each endpoint."""
    work = partial(feed.number, subscribers=lambda _type: endpoints, now=datetime.now(UTC))
    http.service.database.run(work)


def configure(http: HttpClient, name: str) -> None:
    endpoint = Endpoint(name, "http://127.0.0.1:9", secrets=(), types=("*",))
    vars(http.service)["endpoints"] = Endpoints({name: endpoint})


def attempt(http: HttpClient, delivery_id: int, number: int, status: Status, **how: Any) -> None:  # noqa: ANN401 -- fields of an attempt
    now = datetime.now(UTC)
    is_due = status is Status.DUE
    made = Attempt(
        delivery_id,
        number,
        at=now,
        milliseconds=12,
        http_status=how.get("http_status"),
        error=how.get("error"),
        answer=how.get("answer"),
        status=status,
        due_at=now + timedelta(seconds=5) if is_due else None,
        finished_at=None if is_due else now,
    )
    http.service.database.run(lambda session: deliveries.record(session, [made]))


def listed(http: HttpClient, query: str = "") -> list[dict[str, Any]]:
    page: list[dict[str, Any]] = http.get(f"{DELIVERIES}?{query}").get_json()["deliveries"]
    return page


def test_a_delivery_says_what_is_told_to_whom_and_how_it_stands(http: HttpClient) -> None:
    http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    tell(http, "shop")
    events = http.get("/v1/events").get_json()["events"]
    code, consult = listed(http)
    assert [code["eventId"], consult["eventId"]] == [events[1]["id"], events[0]["id"]]
    assert code["expiresAt"] == events[1]["data"]["expiresAt"]
    assert consult == {
        "id": consult["id"],
        "eventId": events[0]["id"],
        "type": "authorization.consulted",
        "endpoint": "shop",
        "status": "due",
        "attempts": 0,
        "dueAt": consult["createdAt"],
        "expiresAt": None,
        "createdAt": consult["createdAt"],
        "finishedAt": None,
        "resendOf": None,
    }


def test_a_delivery_is_shown_with_its_attempts(http: HttpClient) -> None:
    http.consult()
    tell(http, "shop")
    (delivery,) = listed(http)
    attempt(http, int(delivery["id"]), 1, Status.DUE, error="The endpoint cannot be reached.")
    attempt(http, int(delivery["id"]), 2, Status.DELIVERED, http_status=204, answer="")
    shown = http.get(f"{DELIVERIES}/{delivery['id']}").get_json()
    made = shown.pop("attemptsMade")
    assert shown == listed(http)[0]
    assert (shown["status"], shown["attempts"], shown["dueAt"]) == ("delivered", 2, None)
    assert [(each["number"], each["httpStatus"], each["error"], each["answer"]) for each in made] == [
        (1, None, "The endpoint cannot be reached.", None),
        (2, 204, None, ""),
    ]


def test_deliveries_are_listed_newest_first_page_by_page(http: HttpClient) -> None:
    for each in range(7):
        http.consult(f"s-{each}")
    tell(http, "shop")
    pages = [http.get(f"{DELIVERIES}?limit=3").get_json()]
    while (cursor := pages[-1]["nextCursor"]) is not None:
        pages.append(http.get(f"{DELIVERIES}?limit=3&cursor={cursor}").get_json())
    ids = [int(each["id"]) for page in pages for each in page["deliveries"]]
    assert [len(page["deliveries"]) for page in pages] == [3, 3, 1]
    assert ids == sorted(ids, reverse=True)


def test_deliveries_are_narrowed_by_what_is_asked_for(http: HttpClient) -> None:
    for each in range(2):
        http.consult(f"s-{each}")
    tell(http, "shop", "books")
    first = listed(http)[-1]
    attempt(http, int(first["id"]), 1, Status.DEAD)
    assert {each["endpoint"] for each in listed(http, "endpoint=books")} == {"books"}
    assert [each["id"] for each in listed(http, "status=dead")] == [first["id"]]
    assert len(listed(http, "status=due")) == 3
    assert {each["endpoint"] for each in listed(http, f"event={first['eventId']}")} == {"books", "shop"}
    assert listed(http, f"event={first['eventId']}&status=dead&endpoint={first['endpoint']}")[0]["id"] == first["id"]
    assert listed(http, "event=00000000-0000-0000-0000-000000000000") == []
    assert listed(http, "endpoint=nobody") == []


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("status=sent", "status"),
        ("event=1", "event"),
        ("event={00000000-0000-0000-0000-000000000000}", "event"),
        ("cursor=0", "cursor"),
        ("cursor=07", "cursor"),
        ("cursor=9999999999999999999", "cursor"),
        ("endpoint=", "endpoint"),
        ("limit=1001", "limit"),
    ],
)
def test_a_query_of_another_form_is_refused(http: HttpClient, query: str, wrong: str) -> None:
    refused = http.get(f"{DELIVERIES}?{query}")
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == [wrong]


def test_a_delivery_is_resent_as_a_new_one_and_stays_as_it_is(http: HttpClient) -> None:
    configure(http, "shop")
    http.consult()
    http.notify(authcode_created("s-1", "code-1"))
    tell(http, "shop")
    old = listed(http)[0]
    attempt(http, int(old["id"]), 1, Status.EXPIRED)
    before = http.get(f"{DELIVERIES}/{old['id']}").get_json()
    resent = http.post(f"{DELIVERIES}/{old['id']}/resend")
    assert resent.status_code == 201
    new = resent.get_json()
    assert (new["resendOf"], new["eventId"], new["endpoint"]) == (old["id"], old["eventId"], "shop")
    assert (new["status"], new["attempts"], new["attemptsMade"], new["expiresAt"]) == ("due", 0, [], None)
    assert http.get(resent.headers["Location"]).get_json() == new
    assert http.get(f"{DELIVERIES}/{old['id']}").get_json() == before


def test_nothing_is_resent_to_an_endpoint_that_is_configured_no_more(http: HttpClient) -> None:
    configure(http, "books")
    http.consult()
    tell(http, "shop")
    resent = http.post(f"{DELIVERIES}/{listed(http)[0]['id']}/resend")
    assert problem(resent) == (409, "endpoint-not-configured")
    assert len(listed(http)) == 1


@pytest.mark.parametrize("delivery_id", ["1", "0", "01", "-1", "x", "9" * 19, "1%00", "%D9%A1"])
def test_an_unknown_delivery_is_neither_shown_nor_resent(http: HttpClient, delivery_id: str) -> None:
    assert problem(http.get(f"{DELIVERIES}/{delivery_id}")) == (404, "delivery-not-found")
    assert problem(http.post(f"{DELIVERIES}/{delivery_id}/resend")) == (404, "delivery-not-found")


@pytest.mark.parametrize("path", [DELIVERIES, f"{DELIVERIES}/1"])
def test_deliveries_need_a_key(http: HttpClient, path: str) -> None:
    assert problem(http.get(path, key=None)) == (401, "unauthorized")
