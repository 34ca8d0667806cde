"""YAML and JSON files to validated, frozen models."""
