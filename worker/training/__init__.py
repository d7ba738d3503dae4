"""From labelled pictures to a model in service.

`labelled` has what is learnt from; `deepfashion`, `folder`, `table` and `idx` each read one layout of it. What
is wrong in a data set is counted and shown by file and line, and never skipped in silence. Nothing here is
imported by a worker that serves.
"""
