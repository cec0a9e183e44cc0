"""Run the command `xraytune` as `python -m xraytune`.

For environments whose scripts are not on the PATH.
"""

from xraytune.cli.main import main

if __name__ == "__main__":
    main()
