"""The studies: localizing, ablating, and both in one go."""
