"""The network and its training: from shards of examples to fitted, calibrated weights."""
