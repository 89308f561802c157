"""The doors from the shell: `flask …`."""

from flask import Flask

from app.cli.db import db


def init_app(app: Flask) -> None:
    """Add the commands. Flask finds them where it finds the application."""
    app.cli.add_command(db)
