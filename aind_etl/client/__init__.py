"""What people import and ask.

``Warehouse`` (:mod:`.warehouse`) and ``get_mle_model_fitting`` (:mod:`.model_fitting`) are for
notebooks, and are imported from ``aind_etl``. :mod:`.query` answers SQL, :mod:`.export` writes
files for other programs, :mod:`.report` draws a page of charts, :mod:`.status` tells how fresh the
data are, and :mod:`.verify` compares source, lake and warehouse.
"""
