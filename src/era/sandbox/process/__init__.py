"""The `process` tier: programs as plain child processes, where the platform itself is the boundary."""
