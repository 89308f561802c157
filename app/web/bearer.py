"""Ask for a bearer key before anything is looked up (RFC 6750)."""

import hashlib
import hmac
from collections.abc import Iterable

from flask import current_app, g, request

from app.config import Settings
from app.secret import Secret
from app.web.problems import ProblemError
from app.wiring import Service


def require_key() -> None:
    """Require one of the API keys, and remember its name.

    Raises `ProblemError` 401.
    """
    _require(_settings().api_keys.items(), "A valid API key is needed: Authorization: Bearer …")


def require_metrics_key() -> None:
    """Require a metrics key or an API key.

    Raises `ProblemError` 401.
    """
    settings = _settings()
    # A name may stand for a key in both lists.
    keys = [*settings.metrics_keys.items(), *settings.api_keys.items()]
    _require(keys, "A valid key is needed (FLASK_METRICS_KEYS, FLASK_API_KEYS): Authorization: Bearer …")


def require_token_key() -> None:
    """Require that the key may read codes and tokens.

    Raises `ProblemError` 403.
    """
    allowed = _settings().token_key_names
    if allowed is not None and g.key_name not in allowed:
        raise ProblemError(403, "forbidden", "This key may not read codes and tokens: FLASK_TOKEN_KEYS says which may.")


def _settings() -> Settings:
    service: Service = current_app.extensions["notifyauth"]
    return service.settings


def _require(keys: Iterable[tuple[str, Secret]], detail: str) -> None:
    scheme, _, presented = request.headers.get("Authorization", "").partition(" ")
    name = _name_of(presented.strip(), keys) if scheme.lower() == "bearer" else None
    if name is None:
        challenge = {"WWW-Authenticate": 'Bearer realm="notifyauth"'}
        raise ProblemError(401, "unauthorized", detail, headers=challenge)
    g.key_name = name


def _name_of(presented: str, keys: Iterable[tuple[str, Secret]]) -> str | None:
    """Compare with every key, each in constant time: the time does not tell how close a guess was."""
    digest = _digest(presented)
    found = None
    for name, key in keys:
        if hmac.compare_digest(digest, _digest(key.reveal())):
            found = name
    return found


def _digest(key: str) -> bytes:
    # compare_digest takes ASCII text or bytes, and tells the length: of digests all have the same.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
