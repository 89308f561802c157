"""Correlation keys: by what a notification names an authorization, so that all of it is locked and loaded at once."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from app import inbox
from app.alipay.notification import Notification
from app.authorizations import AuthStateKey
from app.models import InboxEntry
from app.tokens import TokenKey
from app.vault import Vault


class CorrelationKeys(NamedTuple):
    """A notification, the client it was sent for, and the blind index of the token that it names."""

    client_id: str
    notification: Notification
    token_index: bytes | None

    @classmethod
    def read(cls, vault: Vault, client_id: str, notification: Notification) -> "CorrelationKeys":
        """Make it of a notification that could be read."""
        return cls(client_id, notification, inbox.token_index(vault, client_id, notification))

    @property
    def auth_state_key(self) -> AuthStateKey | None:
        """What it names an authorization by."""
        auth_state = self.notification.auth_state
        return None if auth_state is None else (self.client_id, auth_state)

    @property
    def token_key(self) -> TokenKey | None:
        """What it names a token by."""
        return None if self.token_index is None else (self.client_id, self.token_index)


class PendingEntry(NamedTuple):
    """An entry to be judged, and what it is about, if that could be read."""

    entry: InboxEntry
    subject: CorrelationKeys | None


def named_by(
    cases: Sequence[PendingEntry], states: Collection[AuthStateKey], token_keys: Collection[TokenKey]
) -> tuple[set[AuthStateKey], set[TokenKey]]:
    """Add to what is named already by what these cases name authorizations: authStates, and tokens."""
    subjects = [case.subject for case in cases if case.subject is not None]
    return (
        {*states, *(state for subject in subjects if (state := subject.auth_state_key) is not None)},
        {*token_keys, *(key for subject in subjects if (key := subject.token_key) is not None)},
    )
