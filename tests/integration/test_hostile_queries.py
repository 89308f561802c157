"""What is written in a URL is read as it is written, and in one way only."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from app import create_app
from tests.builders import an_environ
from tests.integration.http_client import API_KEY, AUTHORIZATIONS, HttpClient, problem


@pytest.fixture
def refusing(sqlite_url: str, keyring_path: Path) -> Iterator[HttpClient]:
    """A service on the quicker of the databases: what is refused here never comes to one."""
    http = HttpClient(create_app(an_environ(sqlite_url, keyring_path, FLASK_API_KEYS=API_KEY)), keyring_path)
    yield http
    http.service.database.close()


@pytest.mark.parametrize(
    "limit",
    [
        "",
        " 5",
        "5 ",
        "+5",
        "-1",
        "0",
        "5.0",
        "5e0",
        "1_0",
        "0x5",
        "1001",
        "\N{ARABIC-INDIC DIGIT FIVE}",
        "5\x00",
        "9" * 5000,
    ],
    ids=lambda limit: repr(limit[:9]),
)
def test_a_limit_is_written_in_digits_and_in_nothing_else(refusing: HttpClient, limit: str) -> None:
    refused = refusing.get(f"{AUTHORIZATIONS}?limit={quote(limit)}")
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == ["limit"]
    # Whatever is not asked for is not quoted either.
    assert "9" * 100 not in refused.text


@pytest.mark.parametrize("limit", ["1", "0002", "1000"])
def test_a_limit_in_digits_is_taken(http: HttpClient, limit: str) -> None:
    for number in range(3):
        http.consult(f"s-{number}")
    listed = http.get(f"{AUTHORIZATIONS}?limit={limit}").get_json()["authorizations"]
    assert len(listed) == min(int(limit), 3)


def test_the_description_says_how_a_limit_is_written_and_that_a_url_cannot_say_null(refusing: HttpClient) -> None:
    parameters = {each["name"]: each for each in refusing.description()["paths"][AUTHORIZATIONS]["get"]["parameters"]}
    assert "digits only" in parameters["limit"]["description"]
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    assert not any(
        "anyOf" in each["schema"] or "default" in each["schema"]
        for each in parameters.values()
        if each["name"] != "limit"
    )


@pytest.mark.parametrize(
    "cursor", ["A" * 21 + "B", "A" * 21, "A" * 22 + "A", "A" * 22 + "==", "+" * 22, "A" * 22 + "%0A"]
)
def test_a_cursor_is_just_as_a_listing_writes_it(refusing: HttpClient, cursor: str) -> None:
    assert problem(refusing.get(f"{AUTHORIZATIONS}?cursor={cursor}")) == (422, "invalid")
    assert refusing.get(f"{AUTHORIZATIONS}?cursor={'A' * 22}").status_code == 200


@pytest.mark.parametrize("text", [r"nul \u0000", r"\\u0000 spelled out", r"\ud83d\ude00", r"\u202e turned"])
def test_any_text_is_returned_and_found_again(http: HttpClient, text: str) -> None:
    sent = json.loads(f'"{text}"')
    consulted = http.post(AUTHORIZATIONS, data=f'{{"authState": "{text}", "userRef": "{text}"}}'.encode()).get_json()
    assert (consulted["authState"], consulted["userRef"]) == (sent, sent)
    (listed,) = http.get(f"{AUTHORIZATIONS}?authState={quote(sent)}&userRef={quote(sent)}").get_json()["authorizations"]
    assert listed["id"] == consulted["id"]


@pytest.mark.parametrize("text", [r"\ud800", r"\udc00\ud800", "\x00", "\x1f"])
def test_half_a_character_and_a_bare_control_character_are_no_json(refusing: HttpClient, text: str) -> None:
    assert problem(refusing.post(AUTHORIZATIONS, data=f'{{"authState": "{text}"}}'.encode())) == (400, "not-json")


@pytest.mark.parametrize(
    "query", ["userRef=%ff", "userRef=%ed%a0%80", "%ff=1", "%00=1", "userRef", "=", "&&", "a" * 60_000]
)
def test_a_query_that_is_no_text_breaks_nothing(http: HttpClient, query: str) -> None:
    assert http.get(f"{AUTHORIZATIONS}?{query}").status_code in {200, 422}
