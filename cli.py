"""Runs the `surgery` command from a checkout: `python cli.py run recipes/...`, nothing installed."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "plugins")]

if __name__ == "__main__":
    from surgery.cli.main import main

    main()
