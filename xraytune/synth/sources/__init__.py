"""The sources of extra images, a class in a file each, and `which.py`, which finds that of a trial."""
