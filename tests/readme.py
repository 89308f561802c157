"""The pages of the project: what in them is generated, and how tests find what they say.

A generated part stands between two comments that carry its name, in whichever page; `python -m tests.readme` writes all
of them anew, and a test fails when one is outdated.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import click

from app import create_app
from tests.conftest import ROOT

README = ROOT / "README.md"
PAGES = (
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "benchmarks" / "README.md",
)

ACROSS_LINES = re.MULTILINE | re.DOTALL


def transitions() -> str:
    """The table that is drawn from the machine."""
    return (ROOT / "diagrams" / "lifecycle.md").read_text(encoding="utf-8").strip()


def shell() -> str:
    """Every command of the project's own, as its help puts it."""
    lines = ["```"]
    for name, command in sorted(commands().items()):
        lines += [_usage(path, each) for path, each in _leaves(name, command)]
    return "\n".join([*lines, "```"])


#: What is generated, by the name of its block.
BLOCKS: dict[str, Callable[[], str]] = {"transitions": transitions, "shell": shell}


def block(name: str) -> str:
    """What a block says, in the one page that has it."""
    page = _page_of(name)
    return _find(page.read_text(encoding="utf-8"), name)[1].strip()


def script(name: str) -> list[str]:
    """The lines of a block that is a script."""
    first, *lines, last = block(name).splitlines()
    assert (first, last) == ("```bash", "```"), f"the block {name} is no script"
    return lines


def code(name: str, language: str) -> str:
    """What a block says that is code in one language."""
    found = re.fullmatch(rf"```{language}\n(.*)```", block(name), re.DOTALL)
    assert found is not None, f"the block {name} is no {language}"
    return found[1]


def steps() -> str:
    """What the README has a newcomer type."""
    text = README.read_text(encoding="utf-8")
    sections = re.findall(
        r"^## (?:Integrate in six steps|Let it call Alipay for you)$(.*?)(?=^## )", text, ACROSS_LINES
    )
    assert len(sections) == 2, "the README lacks the six steps, or how to let it call"
    return "\n".join(script for section in sections for script in scripts(section))


def scripts(text: str) -> list[str]:
    """Every block of a text that is to be typed as it stands."""
    return re.findall(r"^```bash\n(.*?)^```", text, ACROSS_LINES)


def anchors(page: Path) -> set[str]:
    """What a link can lead to within a page: its headings, as GitHub names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=ACROSS_LINES)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def commands() -> Mapping[str, click.Command]:
    """The project's own commands, by name."""
    app = create_app({"FLASK_DATABASE_URL": "postgresql://unused", "FLASK_VAULT_KEYS": "A" * 43 + "="})
    return dict(app.cli.commands)


def _page_of(name: str) -> Path:
    found = [page for page in PAGES if f"<!-- {name} -->\n" in page.read_text(encoding="utf-8")]
    assert len(found) == 1, f"the block {name} is in {len(found)} pages"
    return found[0]


def _find(text: str, name: str) -> re.Match[str]:
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found is not None, f"the block {name} has no end"
    return found


def _leaves(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    if command.invoke_without_command:
        yield path, command
    for name, each in sorted(command.commands.items()):
        yield from _leaves(f"{path} {name}", each)


def _usage(path: str, command: click.Command) -> str:
    """Write one command: its arguments, its options, and behind a # what it is for."""
    context = click.Context(command, info_name=path)
    pieces = click.Command.collect_usage_pieces(command, context)
    arguments = [piece for piece in pieces if piece != "[OPTIONS]"]
    options = [_option(each) for each in command.params if isinstance(each, click.Option) and not each.hidden]
    call = " ".join(["flask", path, *arguments, *options])
    return f"{call}\n    # {command.get_short_help_str(limit=120)}"


def _option(option: click.Option) -> str:
    name = max(option.opts, key=len)
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('flask')))}"
    text = f"{name}{value}"
    return text if option.required else f"[{text}]"


def main() -> None:
    """Write every generated block anew."""
    for name, generate in BLOCKS.items():
        page = _page_of(name)
        text = page.read_text(encoding="utf-8")
        start, end = _find(text, name).span(1)
        page.write_text(f"{text[:start]}{generate()}\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
