"""Draw how the service grows: one picture for each figure, which any browser shows."""

from collections.abc import Sequence
from pathlib import Path

import pygal
from pygal.style import CleanStyle

from benchmarks.growth import Grown
from benchmarks.report import GROWTH_FIGURES

FOLDER = Path(__file__).parent / "plots"


def draw(grown: Sequence[Grown], folder: Path = FOLDER) -> list[str]:
    """Write the pictures, and give what shows each in Markdown."""
    folder.mkdir(exist_ok=True)
    shown = []
    for name, title, read in GROWTH_FIGURES:
        plain = title.replace("`", "")
        chart = pygal.Line(
            title=plain,
            x_title="authorizations on record",
            x_labels=[f"{each.authorizations:,}".replace(",", " ") for each in grown],
            range=(0, max(read(each) for each in grown) * 1.1),
            show_legend=False,
            width=480,
            height=300,
            style=CleanStyle,
            # A picture in a README runs no scripts, and the same figures make the same file.
            js=(),
            no_prefix=True,
            disable_xml_declaration=True,
        )
        chart.add(plain, [read(each) for each in grown])
        path = folder / f"growth-{name}.svg"
        path.write_text(chart.render(is_unicode=True) + "\n", encoding="utf-8")
        shown.append(f"![{plain}](plots/{path.name})")
    return shown
