"""Sources of documents.

:mod:`.kinds` lists the kinds of sources and opens the one that an address names; :mod:`.protocol`
is what every source can do, and :mod:`.canonical` the form of the documents. The sources are
:mod:`.dump`, :mod:`.sample`, :mod:`.mongodb` and :mod:`.gateway`.
"""
