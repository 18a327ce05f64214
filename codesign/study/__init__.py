"""Studies: published systems as files of experiments and targets, beside what comes out here.

A study holds no simulation code: `library/*.yaml` names experiments, and formulas over their results.
"""
