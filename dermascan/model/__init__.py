"""The exported model: networks joined, calibrated, described, written and loaded again."""
