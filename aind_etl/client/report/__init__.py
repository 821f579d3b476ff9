"""The report: one HTML page of charts, drawn from the marts.

:mod:`.figures` lists the figures, :mod:`.charts` defines their charts, :mod:`.data` reads the rows,
and :mod:`.writing` assembles the page with ``page.html``, ``page.css`` and ``page.js``.
"""

from aind_etl.client.report.writing import write_report

__all__ = ["write_report"]
