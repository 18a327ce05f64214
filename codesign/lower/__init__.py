"""The passes that turn an experiment into a task graph, in this order.

==============  ============================================================================
`parallel`      degrees of parallelism -> ranks, data groups, expert groups, stages, nodes
`precision`     types of weights, activations and caches
`formats`       how each routed expert is stored: bits, rank, decoding, merging
`tiers`         the ways from one memory tier to another
`streams`       weights and caches that live in another tier and come layer by layer
`portions`      which part of a group's experts computes where and when
`residency`     what each device must hold; what is left for the KV cache (`kv`)
`operators`     layers -> operators of one rank, and what they cost for a number of tokens
`graph`         operators of all ranks -> tasks, resources, edges
`layout`        placement, exchanges and cost tables -> the arrays that an iteration runs on
`plan`          all of it together: the plan of one engine
`costs`         in each iteration: a batch -> durations and counters
==============  ============================================================================

A policy is the choice made inside one pass; the choices are in `codesign.policies`.  `machine` and `pim` are
the hardware as the passes see it.
"""
