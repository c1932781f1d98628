"""Exporters: each turns a model of one framework into a bundle."""
