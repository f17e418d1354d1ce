"""What the service keeps: records of sessions, and the bytes of their files.

`base` holds the promises, with every exception.  `records` keeps sessions, manifests, stored code,
setups and layers in a database; `blobs` keeps bytes by their SHA-256.  A commit first stores its
new blobs, then changes the records in one transaction; a blob that no record refers to is waste for
a later sweep, never a loss.  Nothing here knows of boxes, runs or HTTP.
"""
