"""Neither the response to a guessed API key nor the time it takes tells how close the guess was."""

import hmac
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import create_app
from tests.builders import an_environ
from tests.integration.http_client import AUTHORIZATIONS, HttpClient

KEYS = {"first": "a-key-of-the-shop", "second": "another", "third": "x" * 300}


def an_http_client(url: str, keyring_path: Path, keys: dict[str, str]) -> HttpClient:
    named = ",".join(f"{name}={key}" for name, key in keys.items())
    return HttpClient(create_app(an_environ(url, keyring_path, FLASK_API_KEYS=named)), keyring_path)


@pytest.fixture
def guarded(sqlite_url: str, keyring_path: Path) -> Iterator[HttpClient]:
    """A service with several keys."""
    http = an_http_client(sqlite_url, keyring_path, KEYS)
    yield http
    http.service.database.close()


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """Everything that is compared in constant time, as it is compared."""
    pairs: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watched(first: bytes, second: bytes) -> bool:
        pairs.append((first, second))
        return compare(first, second)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    return pairs


@pytest.mark.parametrize("presented", [*KEYS.values(), "", "a", "a-key-of-the-shoq", "x" * 299, "x" * 4000])
def test_every_key_is_compared_whichever_is_presented_and_always_as_32_bytes(
    guarded: HttpClient, compared: list[tuple[bytes, bytes]], presented: str
) -> None:
    answer = guarded.get(AUTHORIZATIONS, key=presented)
    assert answer.status_code == (200 if presented in KEYS.values() else 401)
    assert [(len(first), len(second)) for first, second in compared] == [(32, 32)] * len(KEYS)
    assert len({second for _, second in compared}) == len(KEYS)
    # What is compared is not the key, nor does it begin as the key does.
    assert not any(key.encode()[:4] in first + second for first, second in compared for key in KEYS.values())


def test_every_wrong_key_is_refused_in_the_same_words(guarded: HttpClient) -> None:
    wrong = ["", "a", "a-key-of-the-shoq", "a-key-of-the-shop ", "x" * 299, "\xff", "A-KEY-OF-THE-SHOP"]
    answers = [guarded.get(AUTHORIZATIONS, key=key) for key in wrong]
    # A blank at the end of a header belongs to the header and not to the key.
    assert [answer.status_code for answer in answers] == [401, 401, 401, 200, 401, 401, 401]
    refused = [answer for answer in answers if answer.status_code == 401]
    for answer in refused:
        # The one thing in which two answers may differ: it says nothing of the key.
        assert answer.headers.pop("X-Request-Id")
    assert len({(answer.data, str(answer.headers)) for answer in refused}) == 1


def test_a_guess_that_is_right_but_for_its_end_takes_no_longer_than_one_that_is_wrong_from_its_start(
    sqlite_url: str, keyring_path: Path
) -> None:
    """A thousand long keys that begin alike make whatever one comparison gives away a thousand times larger."""
    alike = "k" * 4000
    http = an_http_client(sqlite_url, keyring_path, {f"key-{number}": f"{alike}{number:04}" for number in range(1000)})
    guesses = {"near": alike + "none", "far": "j" + alike[1:] + "none"}
    took: dict[str, list[float]] = {name: [] for name in guesses}
    client = http.app.test_client()
    # In turn, so that whatever else the machine does falls on both.
    for _ in range(40):
        for name, guess in guesses.items():
            started = time.perf_counter()
            answer = client.get(AUTHORIZATIONS, headers={"Authorization": f"Bearer {guess}"})
            took[name].append(time.perf_counter() - started)
            assert answer.status_code == 401
    # What each takes at best: noise only ever adds to it.
    near, far = (min(each) for each in took.values())
    assert near == pytest.approx(far, rel=0.25), (near, far)
    http.service.database.close()
