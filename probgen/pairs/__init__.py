"""A user's own Pyro functions as a pair: what they see, where their parameters live, the rules.

`view` is the batch that the functions are given, `sites` makes their sites those of the
columns, `store` keeps their parameters, `guides` covers globals that have no guide,
`contract` explains what breaks the rules, `warm` finds where training starts.
"""
