"""A model version over images: those under a prefix, or those that somebody names."""
