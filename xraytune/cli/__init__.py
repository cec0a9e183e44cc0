"""Commands.

Each command imports its function in its body, so that `--help` loads neither torch nor Ray, calls
it with its options, and prints the result.
"""
