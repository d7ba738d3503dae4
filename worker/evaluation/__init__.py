"""How good a model and its index are: three things that are measured apart.

`classification` judges the categories that a network says, `retrieval` whether what is near is alike. Whether an
index finds what is near is its recall, which `worker.index.check` measures. All here is arithmetic on arrays.
"""
