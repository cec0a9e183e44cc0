"""Run the command `xraytune` as `python -m xraytune`, where scripts are not on the PATH."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder, whose random.py is not the module of that name
    from xraytune.cli.main import main

    main()
