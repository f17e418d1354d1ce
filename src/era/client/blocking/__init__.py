# Generated from ../aio by `scripts/sdk`; change that one.
"""The synchronous SDK, generated."""
