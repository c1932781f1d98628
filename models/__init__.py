"""Recipes that build named bundles, one TOML file each."""
