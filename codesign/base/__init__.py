"""What every part needs and nothing more: errors, units, files, registry, named random streams."""
