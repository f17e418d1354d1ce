"""The asynchronous SDK, written by hand."""
