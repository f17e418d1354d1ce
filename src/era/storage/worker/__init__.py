"""State at a Worker: records in Durable Objects, bytes in R2, and a local copy that may be lost.

The local database is the one of `era.storage.records.sqlite`; each of its transactions is passed on
before it commits.  `cloudflare/src/session.ts` and `state.ts` are the other side.
"""
