"""The sources of extra images, a class in a file each; `which.py` finds that of a trial."""
