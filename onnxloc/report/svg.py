"""Small charts as SVG files, for pages that run no script."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import escape

__all__ = ["CONTROL", "INK", "INTACT", "NETWORK", "OTHER", "Canvas", "Scale"]

# The light colours of the page.
NETWORK = "#c94f00"
INTACT = "#1d232b"
CONTROL = "#0072b2"
OTHER = "#8a6fb0"
INK = "#1d232b"
_FAINT = "#dddddd"
_FONT = "font-family='system-ui, sans-serif' font-size='12'"


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` onto pixels from `first` to `last`."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """Where a value lies; beyond an end, at that end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)


@dataclass
class Canvas:
    """A picture that marks are added to.

    Attributes
    ----------
    width, height : int
        In pixels.
    title : str
        What is drawn, for those who cannot see it.
    """

    width: int
    height: int
    title: str
    _parts: list[str] = field(default_factory=list)

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: str = INK,
        width: float = 1.5,
        dash: str = "",
    ) -> None:
        """Draw a line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f" stroke-dasharray='{dash}'" if dash else ""
        self._parts.append(
            f"<polyline points='{path}' fill='none' stroke='{colour}' "
            f"stroke-width='{width:g}'{dashed}/>"
        )

    def rule(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw a faint line."""
        self.line([(x1, y1), (x2, y2)], _FAINT, 1)

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Draw a filled rectangle."""
        self._parts.append(
            f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' "
            f"fill='{colour}'/>"
        )

    def mark(self, x: float, y: float, colour: str, shape: str = "circle") -> None:
        """Draw a circle, diamond or square."""
        if shape == "circle":
            self._parts.append(
                f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.2' fill='{colour}' fill-opacity='0.7'/>"
            )
        elif shape == "diamond":
            self._parts.append(f"<path d='M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z' fill='{colour}'/>")
        else:
            self._parts.append(
                f"<rect x='{x - 4:.1f}' y='{y - 4:.1f}' width='8' height='8' fill='none' "
                f"stroke='{colour}' stroke-width='1.8'/>"
            )

    def text(self, x: float, y: float, text: str, anchor: str = "start", colour: str = INK) -> None:
        """Write text; its baseline begins, is centred or ends at the point."""
        self._parts.append(
            f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}' {_FONT}>"
            f"{escape(text)}</text>"
        )

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str, str]]) -> None:
        """Write a row of marks with their meaning: (shape, colour, text); "line" draws a stroke."""
        for shape, colour, text in entries:
            if shape == "line":
                self.line([(x - 5, y), (x + 5, y)], colour, 2)
            elif shape == "box":
                self.box(x - 5, y - 5, 10, 10, colour)
            else:
                self.mark(x, y, colour, shape)
            self.text(x + 10, y + 4, text)
            x += 34 + 6.6 * len(text)

    def render(self) -> str:
        """The file's text."""
        size = f"width='{self.width}' height='{self.height}'"
        body = "\n".join(self._parts)
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' {size} "
            f"viewBox='0 0 {self.width} {self.height}' role='img'>\n"
            f"<title>{escape(self.title)}</title>\n"
            f"<rect width='100%' height='100%' fill='#ffffff'/>\n{body}\n</svg>\n"
        )
