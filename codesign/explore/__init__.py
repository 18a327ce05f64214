"""Design spaces: sweeps, searches, the store of their results, and where their points run.

`codesign.explore.api.sweep` runs every point, `codesign.explore.search.search` looks for the best ones.
"""
