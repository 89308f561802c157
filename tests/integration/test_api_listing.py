"""The merchant's endpoints: find authorizations, page by page."""

import pytest

from tests.integration.http_client import AUTHORIZATIONS, HttpClient, problem


def test_pages_follow_each_other_newest_first_without_a_gap(http: HttpClient) -> None:
    made = [http.consult(f"s-{number}")["authState"] for number in range(7)]
    pages = [http.get(f"{AUTHORIZATIONS}?limit=3").get_json()]
    while (cursor := pages[-1]["nextCursor"]) is not None:
        pages.append(http.get(f"{AUTHORIZATIONS}?limit=3&cursor={cursor}").get_json())
    assert [len(page["authorizations"]) for page in pages] == [3, 3, 1]
    assert [each["authState"] for page in pages for each in page["authorizations"]] == made[::-1]
    assert "history" not in pages[0]["authorizations"][0]


def test_the_last_page_may_be_full(http: HttpClient) -> None:
    for number in range(2):
        http.consult(f"s-{number}")
    assert http.get(f"{AUTHORIZATIONS}?limit=2").get_json()["nextCursor"] is None


def test_authorizations_added_between_two_pages_change_neither(http: HttpClient) -> None:
    for number in range(4):
        http.consult(f"s-{number}")
    first = http.get(f"{AUTHORIZATIONS}?limit=2").get_json()
    http.consult("s-new")
    second = http.get(f"{AUTHORIZATIONS}?limit=2&cursor={first['nextCursor']}").get_json()
    assert [each["authState"] for each in second["authorizations"]] == ["s-1", "s-0"]


def test_a_listing_narrows_by_what_is_asked_for(http: HttpClient) -> None:
    http.consult("s-1", userRef="u-1")
    http.consult("s-2", userRef="u-1")
    http.post(http.at(http.consult("s-3", userRef="u-2"), "authcode"), {"authCode": "code-1"})

    def listed(query: str) -> list[str]:
        return [each["authState"] for each in http.get(f"{AUTHORIZATIONS}?{query}").get_json()["authorizations"]]

    assert listed("userRef=u-1") == ["s-2", "s-1"]
    assert listed("state=authcode_issued") == ["s-3"]
    assert listed("authState=s-1&userRef=u-1") == ["s-1"]
    assert listed("authState=s-1&userRef=u-2") == []
    assert listed("clientId=STRANGER") == []


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("state=active", "state"),
        ("cursor=nonsense", "cursor"),
        ("cursor=%00", "cursor"),
        ("userref=u-1", "userref"),
        ("userRef=", "userRef"),
        ("state=canceled&state=consulted", "state"),
    ],
)
def test_a_query_of_another_form_is_refused(http: HttpClient, query: str, wrong: str) -> None:
    refused = http.get(f"{AUTHORIZATIONS}?{query}")
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == [wrong]
