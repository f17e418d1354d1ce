"""Real servers that tests start for themselves: a database, an object store."""
