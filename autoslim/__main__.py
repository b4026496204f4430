"""``python -m autoslim``: the console script without an installed one."""

from autoslim.cli.main import run

if __name__ == "__main__":
    run()
