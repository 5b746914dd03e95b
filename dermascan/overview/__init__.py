"""What the bucket holds, for people to look at: read from pointers and small objects alone.

Nothing here imports pandas or TensorFlow or scans the bucket. What never changes once it is
written (a version, a manifest's counts, a finished run) is kept in memory by its reader, so that
looking again costs a few small requests.
"""
