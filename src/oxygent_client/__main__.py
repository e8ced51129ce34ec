"""Run the command line: `python -m oxygent_client`."""

from oxygent_client.cli import main

raise SystemExit(main())
