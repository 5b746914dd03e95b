"""From a search in the archive to a published dataset, in steps that may run on any worker.

The steps hand over through `staging/<dataset>/<plan>/` in object storage: `plan` writes
`records-*.jsonl.gz`, `download` adds `images-*.tar` and then `index-*.jsonl`, `upload` puts the
images in their final place and adds `placed-*.jsonl`, and `publish_manifest` merges all of it
into a manifest and clears the staging area. A step whose output is there does nothing, so
that any of them can be killed and run again.
"""
