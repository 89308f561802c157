"""What is written in a URL is read as it is written, and in one way only."""

from urllib.parse import quote

import pytest

from tests.integration.door import AUTHORIZATIONS, Door, problem


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
def test_a_limit_is_written_in_digits_and_in_nothing_else(door: Door, limit: str) -> None:
    refused = door.get(f"{AUTHORIZATIONS}?limit={quote(limit)}")
    assert problem(refused) == (422, "invalid")
    assert [each["field"] for each in refused.get_json()["errors"]] == ["limit"]
    # Whatever is not asked for is not quoted either.
    assert "9" * 100 not in refused.text


@pytest.mark.parametrize("limit", ["1", "0002", "1000"])
def test_a_limit_in_digits_is_taken(door: Door, limit: str) -> None:
    for number in range(3):
        door.consult(f"s-{number}")
    listed = door.get(f"{AUTHORIZATIONS}?limit={limit}").get_json()["authorizations"]
    assert len(listed) == min(int(limit), 3)


def test_the_description_says_how_a_limit_is_written_and_that_a_url_cannot_say_null(door: Door) -> None:
    parameters = {each["name"]: each for each in door.description()["paths"][AUTHORIZATIONS]["get"]["parameters"]}
    assert "digits only" in parameters["limit"]["description"]
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    assert not any(
        "anyOf" in each["schema"] or "default" in each["schema"]
        for each in parameters.values()
        if each["name"] != "limit"
    )
