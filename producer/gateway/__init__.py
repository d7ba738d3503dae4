"""The HTTP gateway: the producer for clients in any language. It needs the extra `http`, which nothing else loads.

Everything goes through the queue, as it does for a shop's own backend: no database, no network, no index here.
"""
