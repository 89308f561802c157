"""Write notifications as Alipay does: every scalar is a JSON string, and the body has neither an id nor a time."""

import json
from dataclasses import dataclass, field, replace

from typing_extensions import override

from app.alipay.notification import NotificationType

#: What Alipay's results say beside their status. Only S is ever sent.
_RESULT_CODES = {"S": "SUCCESS", "F": "PROCESS_FAIL", "U": "UNKNOWN_EXCEPTION"}


@dataclass(frozen=True, slots=True)
class Draft:
    """A notification to be written. A field that is `None` is left out of the body.

    Nothing is checked: a notification that Alipay would never send is a good test of a receiver.
    """

    type: str
    auth_state: str | None = None
    auth_code: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    reason: str | None = None
    result_status: str = "S"

    def body(self) -> bytes:
        """Write the notification out, in the order of Alipay's samples."""
        result_code = _RESULT_CODES.get(self.result_status, "UNKNOWN_EXCEPTION")
        fields = {
            "authorizationNotifyType": self.type,
            "authState": self.auth_state,
            "authCode": self.auth_code,
            "accessToken": self.access_token,
            "reason": self.reason,
            "result": {
                "resultCode": result_code,
                "resultMessage": result_code.lower(),
                "resultStatus": self.result_status,
            },
        }
        said = {name: value for name, value in fields.items() if value is not None}
        # A shell's argument that is not UTF-8 is sent as the bytes it was.
        return json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogateescape")

    def marked(self, mark: str) -> "Draft":
        """Put a mark on the values that name an authorization, so that no two runs of a scenario speak of the same."""
        return replace(
            self,
            auth_state=self.auth_state and f"{self.auth_state}-{mark}",
            auth_code=self.auth_code and f"{self.auth_code}-{mark}",
            access_token=self.access_token and f"{self.access_token}-{mark}",
        )

    @override
    def __str__(self) -> str:
        """Say what the notification is about, for people: codes and tokens are masked."""
        said = [self.type]
        said += [f"authState {self.auth_state}"] if self.auth_state is not None else []
        said += ["authCode ***"] if self.auth_code is not None else []
        said += ["accessToken ***"] if self.access_token is not None else []
        return "  ".join(said)


def authcode_created(auth_state: str, auth_code: str) -> Draft:
    """Say that the user consented: the code is exchanged for a token within a minute or lost."""
    return Draft(NotificationType.AUTHCODE_CREATED, auth_state=auth_state, auth_code=auth_code)


def token_created(auth_state: str, access_token: str) -> Draft:
    """Say that a token exists: its only carrier for EasySafePay, a repetition or nothing for other wallets."""
    return Draft(NotificationType.TOKEN_CREATED, auth_state=auth_state, access_token=access_token)


def token_canceled(access_token: str, reason: str | None = None) -> Draft:
    """Say that a token is dead. It names no authState: the token is all there is to find the authorization by."""
    return Draft(NotificationType.TOKEN_CANCELED, access_token=access_token, reason=reason)
