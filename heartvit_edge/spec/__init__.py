"""Values that cross a stage border: frozen models, each stored as one JSON file with a schema and a version."""
