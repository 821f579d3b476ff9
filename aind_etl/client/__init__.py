"""Everything that reads a finished warehouse or lake: for notebooks, commands and other programs.

``Warehouse`` (:mod:`.warehouse`) and ``get_mle_model_fitting`` (:mod:`.model_fitting`) are imported
from ``aind_etl``. :mod:`.query` runs SQL, :mod:`.export` writes files for other programs,
:mod:`.report` draws a page of charts, :mod:`.status` reports how fresh the data are, and
:mod:`.verify` compares source, lake and warehouse.
"""
