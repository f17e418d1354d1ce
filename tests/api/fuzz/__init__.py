"""How the fuzzer of the whole API is told what to look for: `schemathesis.toml` and `hooks`."""
