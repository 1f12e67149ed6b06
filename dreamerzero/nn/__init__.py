"""Networks, distributions, optimisers and normalisers."""
