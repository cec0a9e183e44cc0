"""Trials on Ray. `driver.py` and the files that it imports run in Ray's processes; no others import Ray.

The search itself, which survives Ray, uses `setup.py`, `runner.py` and `process.py`.
"""
