"""Units of work: each function is what happens inside one transaction, given its connection.

They are plain functions, so any keeper runs them as its database wants: the SQLite one on its own
thread.  A unit that raises has changed nothing, because its transaction is rolled back.  Units that
change a session lock its row first, so that two of them never interleave.
"""
