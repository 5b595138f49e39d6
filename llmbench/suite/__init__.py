"""From YAML to an ordered plan of cells."""
