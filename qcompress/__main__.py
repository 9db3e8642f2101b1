"""``python -m qcompress`` is the command ``qcompress``."""

from qcompress.cli import main

if __name__ == "__main__":
    main(prog_name="qcompress")
