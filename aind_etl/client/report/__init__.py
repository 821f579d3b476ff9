"""The report: one HTML page of charts, drawn from the marts.

:mod:`~aind_etl.client.report.figures` lists what the page shows,
:mod:`~aind_etl.client.report.charts` defines the charts, and
:mod:`~aind_etl.client.report.writing` assembles the page with ``page.html``, ``page.css`` and
``page.js``. The numbers come from ``sql/``; the page only aggregates rows of the marts.
"""

from aind_etl.client.report.writing import ReportSummary, write_report

__all__ = ["ReportSummary", "write_report"]
