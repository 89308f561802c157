"""Whether the settings are probably meant as they are. That they can be read is known before."""

from collections.abc import Iterator

from app.config import Settings
from app.installation.findings import Finding, ok, warning


def examine_settings(settings: Settings) -> Iterator[Finding]:
    """Name slips, quotes and a freshness that loses redeliveries, and say where nothing is set at all."""
    yield ok("settings", f"the database is {settings.database_asked}, the keyring {settings.keyring_path}")
    for each in settings.warnings:
        yield warning("settings", each.rstrip("."))
    if settings.uses_only_defaults:
        yield warning(
            "environment",
            "no setting of the service is set here, so all of this is about the defaults",
            "run the doctor with the environment of the service: set -a; . FILE; set +a, where FILE is what systemd "
            "reads as EnvironmentFile; or with docker compose exec, kubectl exec. If the service starts so, start it "
            "with that file: EnvironmentFile=FILE, or docker compose with env_file",
        )
    elif not settings.api_keys:
        yield warning("api_keys", "no API key is set, so the API refuses everyone", "set FLASK_API_KEYS")
