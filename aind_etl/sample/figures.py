"""The figure of a fitted session: the subject's choices and the agent's prediction."""

from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from aind_etl.sample.dynamics import Latents
from aind_etl.sample.sessions import Session

_SIZE_IN_INCHES = (8.0, 2.8)
_DOTS_PER_INCH = 90
# Latent variables to draw: name, row (None if there is only one), line width, colour and label.
_CURVES = (
    ("choice_prob", 1, 1.4, "tab:green", "p(choose right)"),
    ("q_value", 0, 0.9, "tab:red", "Q left"),
    ("q_value", 1, 0.9, "tab:blue", "Q right"),
    ("value", None, 0.9, "tab:purple", "value"),
    ("threshold", None, 0.9, "black", "threshold"),
    ("p_exploit", None, 0.9, "tab:cyan", "p(exploit)"),
    ("loss_count", None, 0.9, "tab:orange", "loss count / highest"),
)
_RIGHT, _LEFT = 1.12, -0.12
# Position, length and colour of the tick of a trial, by (right chosen, rewarded).
_TICKS = {
    (True, True): (_RIGHT, 9, "black"),
    (True, False): (_RIGHT, 5, "darkgray"),
    (False, True): (_LEFT, 9, "black"),
    (False, False): (_LEFT, 5, "darkgray"),
}


class SessionFigure:
    """A figure that is reused, because creating one takes most of the time.

    The parts that all fits of a session share are drawn once.
    """

    def __init__(self) -> None:
        self._figure = Figure(figsize=_SIZE_IN_INCHES, dpi=_DOTS_PER_INCH)
        self._canvas: Any = FigureCanvasAgg(self._figure)  # without types
        self._background: tuple[Session, Any] | None = None
        self._figure.subplots_adjust(left=0.07, right=0.86, top=0.86, bottom=0.17)
        self._axes = self._figure.add_subplot()
        self._axes.set(xlabel="Valid trial", ylim=(-0.25, 1.25), yticks=[0.0, 0.5, 1.0])
        beside_the_axis = self._axes.get_yaxis_transform()
        for height, side in ((_RIGHT, "R"), (_LEFT, "L")):
            self._axes.text(-0.06, height, side, transform=beside_the_axis, va="center")
        self._ticks = {
            kind: self._axes.plot([], [], "|", markersize=length, color=colour)[0]
            for kind, (_, length, colour) in _TICKS.items()
        }
        # Animated: not drawn together with the axes.
        beside_the_axes = partial(self._axes.text, transform=self._axes.transAxes, animated=True)
        self._curves = [
            (
                self._axes.plot([], [], color=colour, linewidth=width, animated=True)[0],
                beside_the_axes(1.01, 0.0, label, color=colour, size=8),
            )
            for _, _, width, colour, label in _CURVES
        ]
        self._title = beside_the_axes(0.0, 1.03, "", size=9)

    def draw(self, session: Session, latents: Latents, title: str) -> bytes:
        """Return the figure of a fit as PNG; without latent variables, only the behaviour."""
        if self._background is None or self._background[0] is not session:
            self._background = (session, self._drawn_behaviour(session))
        self._canvas.restore_region(self._background[1])
        height = 0.95
        for (line, label), (name, row, *_) in zip(self._curves, _CURVES, strict=True):
            if name not in latents:
                continue
            values = latents[name] if row is None else latents[name][row]
            if name == "loss_count":
                values = values / max(1.0, float(values.max()))
            line.set_data(np.arange(1, len(values) + 1), values)
            label.set_y(height)
            height -= 0.12
            self._axes.draw_artist(line)
            self._axes.draw_artist(label)
        self._title.set_text(title)
        self._axes.draw_artist(self._title)
        png = BytesIO()
        # A higher compression level takes longer than drawing.
        compression = {"compress_level": 3}
        imsave(png, self._canvas.buffer_rgba(), dpi=_DOTS_PER_INCH, pil_kwargs=compression)
        return png.getvalue()

    def _drawn_behaviour(self, session: Session) -> Any:  # noqa: ANN401 - matplotlib names no type
        """Draw the axes and the trials of a session, and return the picture."""
        trials = np.arange(1, session.n_trials + 1)
        for (right, rewarded), line in self._ticks.items():
            at = trials[(session.left != right) & (session.rewarded == rewarded)]
            line.set_data(at, np.full(len(at), _TICKS[right, rewarded][0]))
        self._axes.set_xlim(0, session.n_trials + 1)
        self._canvas.draw()
        return self._canvas.copy_from_bbox(self._figure.bbox)
