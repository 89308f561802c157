"""`flask keys`: see whose signatures are believed, and change the vault key. Keys themselves are never shown."""

from app.cli.command_group import CommandGroup, on_demand

keys = CommandGroup(
    "keys",
    help="See whose signatures are believed, and change the vault key.",
    commands=on_demand(__name__, {"new-vault-key": "new_vault_key", "reseal": "reseal", "show": "show"}),
)
