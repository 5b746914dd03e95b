"""Side-by-side measurements of DermaScan and of the tools that do the same work.

`dermascan benchmark NAME` runs the module of that name. A module has `TITLE`, `AIM` and
`trials(workspace)`, which yields what is to be compared; `benchmarks.upload` is a short example.
"""
