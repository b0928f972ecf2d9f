"""`python -m resnestkit` is `resnestkit`."""

from resnestkit.cli import main

if __name__ == "__main__":
    main()
