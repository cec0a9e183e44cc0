"""Do synthetic chest X-rays help a pneumonia classifier, and in which mix with real ones?

`xraytune.api` has the commands as Python functions.
"""
