"""Write the parts of the README that can be generated: `python -m tests.readme`.

Each stands between two comments that carry its name; a test fails when one is outdated.
"""

import re
from collections.abc import Callable, Iterator

import click

from app import create_app
from tests.conftest import ROOT

README = ROOT / "README.md"


def transitions() -> str:
    """The table that is drawn from the machine."""
    return (ROOT / "diagrams" / "lifecycle.md").read_text(encoding="utf-8").strip()


def shell() -> str:
    """Every command of the project's own, as its help puts it."""
    lines = ["```"]
    for name, command in sorted(_commands().items()):
        lines += [_usage(path, each) for path, each in _leaves(name, command)]
    return "\n".join([*lines, "```"])


#: What is generated, by the name of its block.
BLOCKS: dict[str, Callable[[], str]] = {"transitions": transitions, "shell": shell}


def block(text: str, name: str) -> str:
    """Take a block out of the README's text."""
    return _find(text, name)[1].strip()


def written(text: str) -> str:
    """Bring every block of the README's text up to date."""
    for name, generate in BLOCKS.items():
        start, end = _find(text, name).span(1)
        text = f"{text[:start]}{generate()}\n{text[end:]}"
    return text


def _find(text: str, name: str) -> re.Match[str]:
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found is not None, f"README.md has no block {name}"
    return found


def _commands() -> dict[str, click.Command]:
    app = create_app({"FLASK_DATABASE_URL": "postgresql://unused", "FLASK_VAULT_KEYS": "A" * 43 + "="})
    return dict(app.cli.commands)


def _leaves(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, each in sorted(command.commands.items()):
        yield from _leaves(f"{path} {name}", each)


def _usage(path: str, command: click.Command) -> str:
    """Write one command: its arguments, its options, and behind a # what it is for."""
    context = click.Context(command, info_name=path)
    arguments = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    options = [_option(each) for each in command.params if isinstance(each, click.Option) and not each.hidden]
    call = " ".join(["flask", path, *arguments, *options])
    return f"{call}\n    # {command.get_short_help_str(limit=120)}"


def _option(option: click.Option) -> str:
    name = max(option.opts, key=len)
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('flask')))}"
    text = f"{name}{value}"
    return text if option.required else f"[{text}]"


def main() -> None:
    """Rewrite README.md."""
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
