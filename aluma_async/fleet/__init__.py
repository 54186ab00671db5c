"""A fleet: several exporters of one account that share the work through a store.

The store carries no correctness: durable files before Complete, each node's journal and Aluma's lease remain the only
guarantees. If the store forgets, lags or is unavailable, tasks are exported later or started twice, and none is lost.
"""
