"""What is asked of a machine: models, routers, request streams, traces.  Knows no hardware."""
