"""Masters and nodes that serve other machines: keys, certificates, joining."""
