"""The desk: pages and an API over HTTP, by which people and programs look at batches and their results.

Any number of replicas serve the same: lasting data lie in the object store; sessions and unfinished uploads in
Redis. Everything else that a process keeps is a cache.
"""
