"""What a node can run models with: one interface, one module per engine."""
