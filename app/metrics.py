"""Count what an operator is woken by. Labels come from fixed sets, never from a stranger."""

from prometheus_client import Counter, Histogram

from app.alipay.notification import NotificationType

DELIVERIES = Counter("notifyauth_deliveries", "Deliveries at the notification door, by HTTP status.", ["status"])
NOTIFICATIONS = Counter(
    "notifyauth_notifications",
    "How notifications ended, each time one is processed: by type (other: one that is not known) and outcome.",
    ["type", "outcome"],
)
SIGNATURE_FAILURES = Counter(
    "notifyauth_signature_failures",
    "Deliveries that were not authentic, by client (unknown: not in the keyring) and cause.",
    ["client_id", "cause"],
)
LATENCY = Histogram(
    "notifyauth_delivery_seconds",
    "From having read a delivery to its answer, in seconds.",
    # Alipay documents no limit. Most answers take single milliseconds; waiting in vain takes two to four seconds.
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

_TYPES = frozenset(NotificationType)


def count_notification(notification_type: str | None, outcome: str) -> None:
    """Count one processing of a notification."""
    NOTIFICATIONS.labels(notification_type if notification_type in _TYPES else "other", outcome).inc()
