"""What a run costs here, beside bare starts of the same interpreters measured in the same minutes.

`python -m bench` measures and writes `docs/performance.md`; see there for how to read it.
"""
