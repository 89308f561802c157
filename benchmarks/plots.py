"""Draw how the service grows: one picture for each figure, which any browser shows."""

from collections.abc import Sequence
from pathlib import Path

import pygal
from pygal.style import Style

from benchmarks.growth import Grown
from benchmarks.report import GROWTH_FIGURES, write_number

_STYLE = Style(
    background="white",
    plot_background="white",
    colors=("#1f6feb",),
    guide_stroke_color="#d8dee4",
    guide_stroke_dasharray="",
    major_guide_stroke_color="#d8dee4",
    major_guide_stroke_dasharray="",
    font_family="sans-serif",
    title_font_size=15,
    label_font_size=11,
    major_label_font_size=11,
)

#: What is flat, or grows; the rest is in the table.
_PLOTTED = {"rate", "p99", "database", "log", "canceled", "ending", "feed", "purge", "verify", "vacuum"}

FOLDER = Path(__file__).parent / "plots"


def draw(grown: Sequence[Grown], folder: Path = FOLDER) -> list[str]:
    """Write the pictures, and give what shows each in Markdown."""
    folder.mkdir(exist_ok=True)
    shown = []
    for name, title, read in GROWTH_FIGURES:
        if name not in _PLOTTED:
            continue
        plain = title.replace("`", "")
        chart = pygal.Line(
            title=plain,
            x_title="authorizations on record (not to scale)",
            x_labels=[f"{each.authorizations:,}".replace(",", " ") for each in grown],
            range=(0, max(read(each) for each in grown) * 1.1),
            show_legend=False,
            width=480,
            height=300,
            max_scale=6,
            value_formatter=write_number,
            style=_STYLE,
            # A picture in a README runs no scripts.
            js=(),
            disable_xml_declaration=True,
        )
        # What its styles go by. Pygal would make up another one each time.
        chart.uuid = name
        chart.add(plain, [read(each) for each in grown])
        path = folder / f"growth-{name}.svg"
        path.write_text(chart.render(is_unicode=True) + "\n", encoding="utf-8")
        shown.append(f"![{plain}](plots/{path.name})")
    return shown
