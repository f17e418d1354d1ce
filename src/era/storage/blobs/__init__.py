"""Bytes by their SHA-256: `shelf` is a directory of them, `local` keeps the promises of `Blobs`
on a shelf without ever blocking the event loop."""
