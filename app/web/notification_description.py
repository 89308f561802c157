"""Describe in OpenAPI what Alipay sends to the notification endpoint: the headers, the string that is signed, the body.

A sender of your own, or a test, needs no more than this and a key.
"""

from typing import Any

from app.alipay.notification import (
    ACCESS_TOKEN_CHARACTERS_MAX,
    AUTH_CODE_CHARACTERS_MAX,
    AUTH_STATE_CHARACTERS_MAX,
    REASON_CHARACTERS_MAX,
    RESULT_STATUS_CHARACTERS_MAX,
    USER_ID_CHARACTERS_MAX,
    USER_LOGIN_ID_CHARACTERS_MAX,
    NotificationType,
)
from app.alipay.signature import REQUEST_TIME_CHARACTERS_MAX, SIGNATURE_CHARACTERS_MAX

_DESCRIPTION = """\
The signature is RSA with PKCS #1 v1.5 padding and SHA-256, by the private key of Alipay, over these bytes, in which a
line feed stands behind the path and nothing behind the body:

```
POST {path and query}
{client-id}.{request-time}.{body}
```

Path and query are those that Alipay calls, to the letter; the body is signed as it is sent, byte by byte."""

_HEADERS = {
    "client-id": ("The client that is notified, as the keyring names it.", {"type": "string", "minLength": 1}),
    "request-time": (
        "When it was signed, in milliseconds since 1970 or in another format: it is signed as the text that it is.",
        {"type": "string", "minLength": 1, "maxLength": REQUEST_TIME_CHARACTERS_MAX},
    ),
    "signature": (
        "`algorithm=RSA256,keyVersion=1,signature=…`: base64, percent-encoded once. Without a version: the newest key.",
        {"type": "string", "minLength": 1, "maxLength": SIGNATURE_CHARACTERS_MAX},
    ),
}


def _text(characters_max: int, said: str) -> dict[str, Any]:
    return {"type": "string", "maxLength": characters_max, "description": said}


_BODY: dict[str, Any] = {
    "type": "object",
    "description": "Other fields may stand in it. A type that is not known is stored, and acknowledged.",
    "required": ["authorizationNotifyType", "result"],
    "properties": {
        "authorizationNotifyType": {"type": "string", "examples": [each.value for each in NotificationType]},
        "authState": _text(AUTH_STATE_CHARACTERS_MAX, "That of the consult. A cancellation has none."),
        "authCode": _text(AUTH_CODE_CHARACTERS_MAX, "With AUTHCODE_CREATED."),
        "accessToken": _text(ACCESS_TOKEN_CHARACTERS_MAX, "With TOKEN_CREATED and TOKEN_CANCELED."),
        "userId": _text(USER_ID_CHARACTERS_MAX, "The wallet's id of the user."),
        "userLoginId": _text(USER_LOGIN_ID_CHARACTERS_MAX, "What the user logs in with."),
        "reason": _text(REASON_CHARACTERS_MAX, "Why the wallet canceled."),
        "result": {
            "type": "object",
            "required": ["resultStatus"],
            "properties": {
                "resultStatus": _text(RESULT_STATUS_CHARACTERS_MAX, "S; of anything else nothing is applied."),
                "resultCode": {"type": "string"},
                "resultMessage": {"type": "string"},
            },
        },
    },
}


def notification() -> dict[str, Any]:
    """Describe the request."""
    return {
        "description": _DESCRIPTION,
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": said, "schema": schema}
            for name, (said, schema) in _HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}},
    }
