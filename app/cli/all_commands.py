"""Every command, for Flask to find where it finds the application."""

from flask import Flask

from app.cli.authorizations import authorizations
from app.cli.calls import calls
from app.cli.db import db
from app.cli.diagrams import diagrams
from app.cli.doctor import doctor
from app.cli.endpoints import endpoints
from app.cli.events import events
from app.cli.inbox import inbox
from app.cli.keys import keys
from app.cli.serve import serve
from app.cli.simulator import simulator
from app.cli.work import work


def init_app(app: Flask) -> None:
    """Add the commands."""
    groups = (authorizations, calls, db, diagrams, endpoints, events, inbox, keys, simulator)
    for command in (*groups, doctor, serve, work):
        app.cli.add_command(command)
