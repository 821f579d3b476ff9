"""Sources of documents.

:func:`.kinds.open_source` opens the source that an address names, :data:`.kinds.KINDS` lists the
kinds of sources, :class:`.protocol.Source` is what every source can do, and
:func:`.canonical.canonical_document` brings documents into one form. The sources are :mod:`.dump`,
:mod:`.sample`, :mod:`.mongodb` and :mod:`.gateway`.
"""
