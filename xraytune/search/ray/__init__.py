"""Trials on Ray Tune, in a process of their own (`driver.py`).

The search itself, which survives Ray, uses `setup.py` and `runner.py`, which do not import it.
"""
