"""A discrete-event simulator of a cluster, over the same pure lanes, placement and speeds as the master."""
