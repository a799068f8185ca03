"""Every model call of the product goes through here: registry, placement, lanes, breaker, dispatch."""
