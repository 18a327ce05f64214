"""The passes that turn an experiment into a task graph, in this order.

==============  ============================================================================
`parallel`      degrees of parallelism -> ranks, data groups, expert groups, stages, nodes
`placement`     expert -> expert group
`residency`     what each device must hold; what is left for the KV cache
`operators`     layers -> operators of one rank, and what they cost for a number of tokens
`exchange`      which bytes of dispatch and combine cross which port
`graph`         operators of all ranks -> tasks, resources, edges
`plan`          all of it together: the plan of one engine
==============  ============================================================================
"""
