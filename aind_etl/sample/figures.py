"""The figure of a fitted session: what the subject did, and what the agent made of it."""

from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aind_etl.sample.latents import Latents
from aind_etl.sample.sessions import Session

_SIZE_IN_INCHES = (8.0, 2.8)
_DOTS_PER_INCH = 90
# Latent variables to draw: the name, its row (None where it has only one), colour, and words.
_CURVES = (
    ("q_value", 0, "tab:red", "Q left"),
    ("q_value", 1, "tab:blue", "Q right"),
    ("value", None, "tab:purple", "value"),
    ("threshold", None, "black", "threshold"),
    ("p_exploit", None, "tab:cyan", "p(exploit)"),
    ("loss_count", None, "tab:orange", "loss count / highest"),
)
_RIGHT, _LEFT = 1.12, -0.12
# Kind of trial (right chosen, rewarded): where its tick stands, how long it is, its colour.
_TICKS = {
    (True, True): (_RIGHT, 9, "black"),
    (True, False): (_RIGHT, 5, "darkgray"),
    (False, True): (_LEFT, 9, "black"),
    (False, False): (_LEFT, 5, "darkgray"),
}


class SessionFigure:
    """A figure that is drawn again and again, as making a new one takes most of the time."""

    def __init__(self) -> None:
        self._figure = Figure(figsize=_SIZE_IN_INCHES, dpi=_DOTS_PER_INCH)
        FigureCanvasAgg(self._figure)
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
        (self._probability,) = self._axes.plot([], [], color="tab:green", linewidth=1.4)
        self._curves = [
            self._axes.plot([], [], color=colour, linewidth=0.9)[0] for _, _, colour, _ in _CURVES
        ]
        self._words = [
            self._axes.text(1.01, 0.0, "", transform=self._axes.transAxes, color=colour, size=8)
            for colour in ("tab:green", *(colour for _, _, colour, _ in _CURVES))
        ]

    def draw(self, session: Session, latents: Latents, title: str) -> bytes:
        """Return the figure of a fit as PNG.

        Parameters
        ----------
        session
            The session.
        latents
            The fit's latent variables; without any, only the behaviour is drawn.
        title
            What to write above.
        """
        n_trials = session.n_trials
        trials = np.arange(1, n_trials + 1)
        for (right, rewarded), line in self._ticks.items():
            at = trials[(session.left != right) & (session.rewarded == rewarded)]
            line.set_data(at, np.full(len(at), _TICKS[right, rewarded][0]))
        has_probability = self._draw_curve(self._probability, latents, "choice_prob", 1)
        words = ["p(choose right)" if has_probability else ""]
        for line, (name, row, _, word) in zip(self._curves, _CURVES, strict=True):
            words.append(word if self._draw_curve(line, latents, name, row) else "")
        height = 0.95
        for text, word in zip(self._words, words, strict=True):
            text.set_text(word)
            if word:
                text.set_y(height)
                height -= 0.12
        self._axes.set_xlim(0, n_trials + 1)
        self._axes.set_title(title, fontsize=9, loc="left")
        png = BytesIO()
        # Compressing harder takes longer than drawing.
        self._figure.savefig(png, format="png", pil_kwargs={"compress_level": 3})
        return png.getvalue()

    @staticmethod
    def _draw_curve(line: Line2D, latents: Latents, name: str, row: int | None) -> bool:
        """Show a latent variable and return whether the agent has it."""
        line.set_visible(name in latents)
        if name not in latents:
            return False
        values = latents[name] if row is None else latents[name][row]
        if name == "loss_count":
            values = values / max(1.0, float(values.max()))
        line.set_data(np.arange(1, len(values) + 1), values)
        return True
