"""The nodes of a Bayesian network: what each holds, its parameters, and rows over all of them."""
