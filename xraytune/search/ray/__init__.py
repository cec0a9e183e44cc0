"""Trials on Ray: `driver.py`, `nodes.py`, `actor.py` and `metrics.py` run in Ray's processes, and only they import Ray.

The search itself, which survives Ray, uses the other files: `setup.py` and `runner.py`.
"""
