"""Small models in JAX that read a checkpoint without torch, to be exported or read."""
