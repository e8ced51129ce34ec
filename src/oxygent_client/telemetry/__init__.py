"""What happens in an agent's runs, for whoever watches: `SSEOxyGent(observers=[...])`, `agent.stats()`.

`oxygent_client.telemetry.otel` hands it to OpenTelemetry.
"""

from oxygent_client._observe import Happening, Observed, Observer, Propagator
from oxygent_client._stats import Pool, Quantiles, Stats

__all__ = ["Happening", "Observed", "Observer", "Pool", "Propagator", "Quantiles", "Stats"]
