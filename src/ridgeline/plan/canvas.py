"""A drawing in characters: lines in braille dots (2 x 4 a character), and text over them."""

from __future__ import annotations

from math import log10

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


class Canvas:
    """Both axes logarithmic, from `left` to `right` and from `bottom` to `top`; all above 0."""

    def __init__(
        self, columns: int, rows: int, *, left: float, right: float, bottom: float, top: float
    ) -> None:
        self.columns, self.rows = columns, rows
        self._x = (log10(left), log10(right) - log10(left))
        self._y = (log10(bottom), log10(top) - log10(bottom))
        self._dots = [[0] * columns for _ in range(rows)]
        self._text: dict[tuple[int, int], str] = {}

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """In dots from the upper left corner."""
        across = (log10(x) - self._x[0]) / self._x[1]
        down = 1.0 - (log10(y) - self._y[0]) / self._y[1]
        return across * (2 * self.columns - 1), down * (4 * self.rows - 1)

    def line(self, x0: float, y0: float, x1: float, y1: float) -> None:
        (a, b), (c, d) = self._place(x0, y0), self._place(x1, y1)
        steps = max(1, round(max(abs(c - a), abs(d - b))))
        for i in range(steps + 1):
            column, row = round(a + (c - a) * i / steps), round(b + (d - b) * i / steps)
            if 0 <= column < 2 * self.columns and 0 <= row < 4 * self.rows:
                self._dots[row // 4][column // 2] |= _BITS[row % 4][column % 2]

    def mark(self, x: float, y: float, character: str) -> None:
        """One character at a point; where one is already, the nearest free cell beside it."""
        across, down = self._place(x, y)
        column = min(max(round(across) // 2, 0), self.columns - 1)
        row = min(max(round(down) // 4, 0), self.rows - 1)
        for shift in (0, 1, -1, 2, -2, 3, -3, 4, -4):
            cell = (row, min(max(column + shift, 0), self.columns - 1))
            if cell not in self._text:
                self._text[cell] = character
                return

    def write(self, x: float, y: float, text: str, *, up: int = 0) -> None:
        """Text that begins at a point, moved left where it would leave the canvas."""
        across, down = self._place(x, y)
        row = min(max(round(down) // 4 - up, 0), self.rows - 1)
        column = min(max(round(across) // 2, 0), max(0, self.columns - len(text)))
        for i, character in enumerate(text):
            self._text[row, column + i] = character

    def lines(self) -> list[str]:
        """The rows, from the top; blanks at their ends are left away."""
        found = []
        for row, cells in enumerate(self._dots):
            text = "".join(
                self._text.get((row, column)) or (chr(0x2800 + dots) if dots else " ")
                for column, dots in enumerate(cells)
            )
            found.append(text.rstrip())
        return found
