"""How far a batch of images lies from those that a model version was made with."""
