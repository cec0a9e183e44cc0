"""Commands.

Each command parses its options, calls the Python function of the same name, and prints the result.
"""
