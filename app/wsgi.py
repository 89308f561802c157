"""What a WSGI server imports: the application, with its keys, database and vault opened and checked."""

import logging
import sys

from app import create_app, logs, metrics
from app.database import DatabaseUnavailableError, UnfitDatabaseError
from app.wiring import Service

#: By this exit code gunicorn knows that another worker would not start either, and ends.
_CANNOT_START = 3

application = create_app()
logs.include_everything(*logs.SERVERS)
metrics.share()

_service: Service = application.extensions["notifyauth"]
try:
    _service.open_all()
except UnfitDatabaseError as error:
    # Waiting would not help: an operator has to change something. A traceback would only hide what.
    sys.stderr.write(f"The database {_service.settings.database_asked} cannot be used: {error.cause}.\n")
    raise SystemExit(_CANNOT_START) from None
except DatabaseUnavailableError as error:
    # A worker that starts while the database is away waits for it: until then it is alive, not ready, and answers 503.
    fields = {"database": _service.settings.database_asked, "cause": error.cause}
    logging.getLogger("app").warning("the database is away", extra=fields)

_service.start_resuming()
