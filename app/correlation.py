"""Correlation keys: the authState and the token by which a notification names its authorization.

The unit of work collects the keys of a whole batch, to lock and load everything that they name at once.
"""

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
        """Return the keys of a notification."""
        return cls(client_id, notification, inbox.token_index(vault, client_id, notification))

    @property
    def auth_state_key(self) -> AuthStateKey | None:
        """The client id and the authState, if it names one."""
        auth_state = self.notification.auth_state
        return None if auth_state is None else (self.client_id, auth_state)

    @property
    def token_key(self) -> TokenKey | None:
        """The client id and the blind index of the token, if it names one."""
        return None if self.token_index is None else (self.client_id, self.token_index)


class PendingEntry(NamedTuple):
    """An entry to be judged, and its correlation keys; `None` where its body could not be read."""

    entry: InboxEntry
    subject: CorrelationKeys | None


def named_by(
    pending: Sequence[PendingEntry], states: Collection[AuthStateKey], token_keys: Collection[TokenKey]
) -> tuple[set[AuthStateKey], set[TokenKey]]:
    """Return the authStates and tokens that these entries name, with those given."""
    subjects = [each.subject for each in pending if each.subject is not None]
    return (
        {*states, *(state for subject in subjects if (state := subject.auth_state_key) is not None)},
        {*token_keys, *(key for subject in subjects if (key := subject.token_key) is not None)},
    )
