"""The round and the run: local training, aggregation, discovery, evaluation, record."""
