"""How good a model and its index are: three things that are measured apart.

`classification` judges the categories that a network says, `retrieval` whether what is near is alike, `indexing`
whether an index finds what is near. `evaluation` does all three for models on labelled pictures, `generations` the
last two for the service's own catalogue.
"""
