"""Entry point of ``python -m aluma_async``."""

from aluma_async.cli.main import main

if __name__ == "__main__":
    main()
