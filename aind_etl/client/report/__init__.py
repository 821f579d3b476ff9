"""The report: one page of pictures drawn from the marts, for a browser, a screen or paper.

Here belong what the page shows (:mod:`~aind_etl.client.report.figures`), how its charts look
(:mod:`~aind_etl.client.report.charts`) and how the page is put together
(:mod:`~aind_etl.client.report.writing`, with ``page.html``, ``page.css`` and ``page.js``). What the
numbers are is decided by ``sql/``: the page adds up rows of the marts, and computes nothing that
a query on the warehouse could not repeat.
"""

from aind_etl.client.report.writing import ReportSummary, write_report

__all__ = ["ReportSummary", "write_report"]
