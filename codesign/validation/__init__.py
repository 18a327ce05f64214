"""Our figures beside measurements: errors of operator costs, their plots, tables of shapes in and out."""
