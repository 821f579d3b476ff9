"""Where the lake's files are: a local disk, or an object store."""
