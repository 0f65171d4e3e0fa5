"""``python -m heartvit_edge`` is ``heartvit-edge``."""

from heartvit_edge.cli.app import main

if __name__ == "__main__":
    main()
