"""`ddspo`, and `python -m ddspo`, and so `accelerate launch -m ddspo run recipe.yaml`."""

import logging
import sys


def main() -> None:
    """Run the command line; whoever interrupts it before it is there gets a line too."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # where diffusers imports it, it names a further package
    try:
        from ddspo.cli import main as command
    except KeyboardInterrupt:
        print("ddspo: interrupted", file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
