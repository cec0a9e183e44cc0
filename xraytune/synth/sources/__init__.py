"""The sources of extra images, one file with a class each; `which.py` finds a trial's source."""
