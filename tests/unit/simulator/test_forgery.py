"""A forgery is wrong in one way, and that one is found."""

import pytest

from app.alipay.keyring import Keyring
from app.alipay.signature import NotAuthenticError, verify
from app.simulator.draft import token_canceled
from app.simulator.forgery import Forgery, forge
from app.simulator.sender import Signer

BODY = token_canceled("t-1").body()


def test_without_a_forgery_the_delivery_is_authentic(signer: Signer, keyring: Keyring) -> None:
    verify(forge(signer, None, BODY, uri="/", request_time="1"), keyring)


@pytest.mark.parametrize(
    ("forgery", "result_code"),
    [
        (Forgery.STRANGER, "INVALID_SIGNATURE"),
        (Forgery.TAMPERED, "INVALID_SIGNATURE"),
        (Forgery.UNKNOWN_CLIENT, "UNKNOWN_CLIENT"),
        (Forgery.UNKNOWN_KEY, "KEY_NOT_FOUND"),
    ],
)
def test_forgery_is_refused(signer: Signer, keyring: Keyring, forgery: Forgery, result_code: str) -> None:
    with pytest.raises(NotAuthenticError) as refusal:
        verify(forge(signer, forgery, BODY, uri="/", request_time="1"), keyring)
    assert refusal.value.result_code == result_code
