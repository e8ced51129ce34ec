"""`python -m oxygent_client` is the command `oxygent-client`."""

from oxygent_client.cli import main

raise SystemExit(main())
