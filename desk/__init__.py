"""The desk: pages and an API over HTTP, by which people and programs look at batches and their results.

Any number of replicas serve the same: what is to stay lies in the object store, who is signed in and what is being
uploaded in Redis. What a process keeps besides is a cache.
"""
